// SPDX-License-Identifier: Apache-2.0

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/testenv"
)

// TestVersionComesFromGit runs .ci/version, which the build, the packages and the release ask, in a
// repository of its own.
func TestVersionComesFromGit(t *testing.T) {
	testenv.NeedTool(t, "git")
	dir := t.TempDir()
	script, err := os.ReadFile(filepath.Join(testenv.Tree(t), ".ci", "version"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(env, program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1",
			"GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "CLOISTER_VERSION="+env)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	version := func(args ...string) string { return run("", ".ci/version", args...) }
	commit := func() {
		t.Helper()
		run("", "git", "add", "--all")
		run("", "git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=x")
	}
	write(".ci/version", string(script))
	if got := version(); got != "0.0.0-dev" {
		t.Errorf("without a repository: %s", got)
	}
	if got := run("4.5.6", ".ci/version"); got != "4.5.6" {
		t.Errorf("with CLOISTER_VERSION: %s", got)
	}
	run("", "git", "init", "--quiet")
	write("agent/a", "1")
	commit()
	like := func(what, got, pattern string) {
		t.Helper()
		if !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
			t.Errorf("%s: %s, want %s", what, got, pattern)
		}
	}
	like("before the first tag", version(), "0.0.0-1-g[0-9a-f]{12}")
	run("", "git", "tag", "v1.2.3")
	like("at a tag", version(), `1\.2\.3`)
	agent := version("agent")
	write("host", "1")
	commit()
	like("after a tag", version(), `1\.2\.3-1-g[0-9a-f]{12}`)
	if got := version("agent"); got != agent {
		t.Errorf("the agent's version is %s after a commit that does not touch it, before %s", got, agent)
	}
	write("host", "2")
	like("with changes", version(), `1\.2\.3-1-g[0-9a-f]{12}\+changes`)
	if got := version("agent"); got != agent {
		t.Errorf("the agent's version is %s with a change elsewhere, before %s", got, agent)
	}
}

// TestEveryProgramSaysItsVersion links the programs as .ci/build does, with a version in each
// variable that it stamps, and asks them for it.
func TestEveryProgramSaysItsVersion(t *testing.T) {
	goTool := testenv.NeedTool(t, "go")
	script, err := os.ReadFile(filepath.Join(testenv.Tree(t), ".ci", "build"))
	if err != nil {
		t.Fatal(err)
	}
	const version = "1.2.3-7-gabc"
	flags := "-s -w"
	for _, m := range regexp.MustCompile(`-X (\S+)=`).FindAllSubmatch(script, -1) {
		flags += " -X " + string(m[1]) + "=" + version
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), goTool, "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace,no_grpc",
		"-ldflags", flags, "-o", dir+"/", "./cmd/...")
	cmd.Dir, cmd.Env = testenv.Tree(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	programs, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, p := range programs {
		flag := "--version"
		if strings.HasPrefix(p.Name(), "containerd-shim-") {
			flag = "-v" // as containerd's shims have it
		}
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, p.Name()), flag).CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v: %s", p.Name(), flag, err, out)
		}
		said[p.Name()] = regexp.MustCompile(`1\.2\.3[-\w]*`).FindString(string(out))
	}
	want := map[string]string{
		"cloister": version, "cloister-agent": version, "cloister-node": version, "cloister-oci": version,
		"containerd-shim-cloister-v2": version,
	}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("versions that the programs say (-want +got):\n%s", diff)
	}
}
