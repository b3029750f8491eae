// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// updating is a bed whose guest image is a copy of the built one, which an update replaces.
type updating struct {
	*bed
	image string
}

func newUpdating(t *testing.T) *updating {
	t.Helper()
	if !isCloister() {
		t.Skip("only machines have an image")
	}
	b := &updating{bed: newBed(t, host.Options{})}
	built := testenv.NeedGuest(t)
	b.image = filepath.Join(b.Place.Dir, "images", filepath.Base(built))
	if err := os.CopyFS(b.image, os.DirFS(built)); err != nil {
		t.Fatal(err)
	}
	configs := filepath.Join(b.Place.Dir, "config.d")
	if err := os.MkdirAll(configs, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "[guest]\nimage = \"" + b.image + "\"\n"
	if err := os.WriteFile(filepath.Join(configs, "image.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// agent builds the guest's first process, with a version of its own or from another program.
func (b *updating) agent(t *testing.T, name, version, source string) string {
	t.Helper()
	file := filepath.Join(b.Place.Dir, name, "cloister-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace,no_grpc",
		"-ldflags", "-s -w -X main.version="+version, "-o", file, source)
	build.Dir, build.Env = testenv.Tree(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return file
}

// cloister runs the host tool in the bed's place.
func (b *updating) cloister(t *testing.T, args ...string) host.Result {
	t.Helper()
	program := filepath.Join(testenv.Build(t), "cloister")
	args = append([]string{"--config", filepath.Join(b.Place.Dir, "cloister.toml")}, args...)
	cmd := b.Place.Command(t.Context(), program, args...)
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = cmd.Run() // the status says it
	return host.Result{Stdout: out.String(), Stderr: err.String(), Code: cmd.ProcessState.ExitCode()}
}

// TestGuestUpdate replaces the image under a running sandbox, which goes on; an image that does not
// boot is not used.
func TestGuestUpdate(t *testing.T) {
	b := newUpdating(t)
	b.Start(t, "old", nil)
	agent := b.agent(t, "next", "9.9.9", "./cmd/cloister-agent")
	r := b.cloister(t, "guest", "update", "--json", "--agent", agent)
	var u struct {
		Changed bool     `json:"changed"`
		Agent   string   `json:"agent"`
		Old     []string `json:"sandboxesOnOldImage"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &u); err != nil || r.Code != 0 {
		t.Fatalf("guest update = %+v: %v", r, err)
	}
	if !u.Changed || u.Agent != "9.9.9" || !slices.Equal(u.Old, []string{b.Namespace + "/old"}) {
		t.Errorf("guest update = %+v, want agent 9.9.9 and %s/old on the old image", u, b.Namespace)
	}
	if r := b.Exec(t, "old", "e", "echo", "on"); r.Stdout != "on\n" {
		t.Errorf("exec in the sandbox of the old image = %+v", r)
	}
	b.Start(t, "new", nil)
	if r := b.cloister(t, "inspect", "new"); !strings.Contains(r.Stdout, "9.9.9") {
		t.Errorf("the new sandbox does not run agent 9.9.9: %+v", r)
	}
	r = b.cloister(t, "ps")
	if strings.Count(r.Stdout, "OLD") != 1 {
		t.Errorf("ps = %+v, want one sandbox on an old image", r)
	}
	if r := b.cloister(t, "check"); !strings.Contains(r.Stdout, "1 of 2 run on an older image") {
		t.Errorf("check = %+v, want a warning of one of two sandboxes", r)
	}
	b.refused(t)
}

// refused tries an image whose first process says nothing.
func (b *updating) refused(t *testing.T) {
	t.Helper()
	source := filepath.Join(testenv.Tree(t), "tests", "integration", "silent", "cloister-agent")
	silent := b.agent(t, "silent", "0", source)
	r := b.cloister(t, "guest", "update", "--agent", silent)
	if r.Code != 1 || !strings.Contains(r.Stderr, "the new image is not used: boot the guest image: agent:") {
		t.Errorf("update with an agent that says nothing = %+v", r)
	}
	if r := b.cloister(t, "guest", "inspect", b.image); !strings.Contains(r.Stdout, "9.9.9") {
		t.Errorf("after the refusal the image is %+v, want that of agent 9.9.9", r)
	}
	entries, err := os.ReadDir(filepath.Dir(b.image))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the image: %v, %v", entries, err)
	}
	b.want(t, "after", "hello", nil, "echo", "hello")
}
