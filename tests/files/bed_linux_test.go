// SPDX-License-Identifier: Apache-2.0

package files

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

// image has the probe, several times, and a user.
const image = "docker.io/cloister/files:latest"

// netRaw is what `setcap cap_net_raw+ep` writes.
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// ground is a bed with the probe's image in it.
type ground struct{ *bed.Bed }

// newGround starts a daemon with the image unpacked for the snapshotters.
func newGround(t *testing.T, o host.Options, snapshotters ...string) ground {
	t.Helper()
	g := ground{bed.New(t, o)}
	file := filepath.Join(g.Dir, "files.tar")
	if err := images.Save(file, map[string]v1.Image{image: probeImage(t)}); err != nil {
		t.Fatal(err)
	}
	for _, s := range append(snapshotters, "overlayfs") {
		g.Must(t, "images", "import", "--local", "--snapshotter", s, file)
	}
	return g
}

func probeImage(t *testing.T) v1.Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "cloister/tests/files/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	base, err := images.Busybox(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.New(base, []images.Entry{
		{Name: "bin/probe", Mode: 0o755, Data: data},
		{Name: "bin/probe-suid", Mode: fs.ModeSetuid | 0o755, UID: 2000, GID: 2001, Data: data},
		{Name: "bin/probe-sgid", Mode: fs.ModeSetgid | 0o755, UID: 2000, GID: 2001, Data: data},
		{Name: "bin/probe-cap", Mode: 0o755, Data: data, Xattrs: map[string]string{"security.capability": netRaw}},
		{Name: "home/user", Mode: fs.ModeDir | 0o750, UID: 1000, GID: 1000},
	}, v1.Config{Cmd: []string{"sh"}, User: "1000:1000", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// start starts a container of the image that stays until the test ends.
func (g ground) start(t *testing.T, id, runtime string, options ...string) {
	t.Helper()
	t.Cleanup(func() { g.Remove(t, id) })
	args := append([]string{"run", "--detach", "--runtime", runtime, "--allow-new-privs"}, options...)
	g.Must(t, append(args, image, id, "sleep", "1000")...)
}

// sh runs a script in container c, and gives what it wrote, with its exit code where that is not 0.
func (g ground) sh(t *testing.T, c, script string) string {
	t.Helper()
	return g.shAs(t, c, "0", script)
}

// shAs is sh as another user.
func (g ground) shAs(t *testing.T, c, user, script string) string {
	t.Helper()
	args := []string{"task", "exec", "--user", user, "--exec-id", fmt.Sprintf("e%d", time.Now().UnixNano()), c, "sh", "-c", script}
	begin := time.Now()
	r := g.Within(t, 10*time.Minute, args...) // a guard against what hangs
	t.Logf("%s: %.60q in %.1f s", c, script, time.Since(begin).Seconds())
	if r.Code != 0 {
		return fmt.Sprintf("%s%sexit %d\n", r.Stdout, r.Stderr, r.Code)
	}
	return r.Stdout
}

// folder makes a folder of the host with files in it.
func (g ground) folder(t *testing.T, name string, files ...string) string {
	t.Helper()
	dir := filepath.Join(g.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// bind gives the option that binds source to destination.
func bind(source, destination, options string) string {
	return fmt.Sprintf("--mount=type=bind,src=%s,dst=%s,options=%s", source, destination, options)
}
