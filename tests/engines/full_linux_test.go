// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestFullDisk: where the disk is full that has the records, the log, the pid file or the shim's
// own state, the call fails with the reason, and nothing of the container is left. It can be made
// afterwards.
func TestFullDisk(t *testing.T) {
	for _, class := range []string{"vm", "process"} {
		t.Run(class, func(t *testing.T) {
			b := newBed(t)
			b.WriteClass(t, class)
			b.testFullDisk(t)
		})
	}
}

// fill takes the rest of a file system.
const fill = `! dd if=/dev/zero of="$1/filler" bs=4k 2>/dev/null`

func (b *bed) testFullDisk(t *testing.T) {
	t.Helper()
	full := filepath.Join(b.Dir, "full")
	b.must(t, "sh", "-c", `mkdir "$1" && mount -t tmpfs -o size=1m,mode=755 tmpfs "$1" && mkdir "$1/root" "$1/state" && `+fill,
		"sh", full)
	t.Cleanup(func() { b.must(t, "umount", full) })
	b.before = b.look(t)
	bundle := b.bundle(t, []string{"sleep", "1000"}, nil)
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"records", []string{"--root", filepath.Join(full, "root"), "create", "--bundle", bundle, "one"}},
		{"pid file", []string{"create", "--bundle", bundle, "--pid-file", filepath.Join(full, "pid"), "one"}},
	} {
		b.fails(t, tt.name, "no space left on device", tt.args...)
		if left := host.Await(host.Patience, func() string { return b.leftover(t) }); left != "" {
			t.Errorf("%s: left behind:\n%s", tt.name, left)
		}
	}
	// The error itself has no room in the log: both are said.
	r := b.fails(t, "log", "does not exist", "--log", filepath.Join(full, "log"), "--log-format", "json", "start", "none")
	if !strings.Contains(r.err, "--log: ") || !strings.Contains(r.err, "no space left on device") {
		t.Errorf("start with a full disk for the log = %+v, want both errors", r)
	}
	b.create(t, "--bundle", bundle)
	t.Cleanup(func() { b.oci(t, "delete", "--force", "one") })
	b.oci(t, "start", "one")
	b.fails(t, "pid file of an exec", "no space left on device", "exec", "--detach", "--pid-file", filepath.Join(full, "pid"), "one",
		"sleep", "1000")
	if got := b.oci(t, "exec", "one", "ps"); strings.Count(got, "sleep 1000") != 1 {
		t.Errorf("processes after an exec that failed:\n%s\nwant one sleep", got)
	}
	if got := b.must(t, "ls", "-A", full, filepath.Join(full, "root")); strings.Contains(got, "pid") || strings.Contains(got, "one") {
		t.Errorf("left on the full disk:\n%s", got)
	}
	b.oci(t, "delete", "--force", "one")
	b.testFullState(t, full, bundle)
}

// testFullState has no room for the shim's own records.
func (b *bed) testFullState(t *testing.T, full, bundle string) {
	t.Helper()
	state := filepath.Join(full, "state")
	config := b.WriteCloisterConfig(t, "")
	text, err := os.ReadFile(config)
	if err == nil {
		changed := strings.Replace(string(text), `state = "/run/cloister"`, fmt.Sprintf("state = %q", state), 1)
		err = os.WriteFile(config, []byte(changed), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.WriteCloisterConfig(t, "")
	b.fails(t, "state", "no space left on device", "create", "--bundle", bundle, "one")
	if left := host.Await(host.Patience, func() string { return b.leftover(t) }); left != "" {
		t.Errorf("state: left behind:\n%s", left)
	}
	b.noState(t, state)
	// The disk is full when the container ends.
	b.must(t, "rm", filepath.Join(full, "filler"))
	b.create(t, "--bundle", bundle)
	b.oci(t, "start", "one")
	b.must(t, "sh", "-c", fill, "sh", full)
	b.oci(t, "delete", "--force", "one")
	if left := host.Await(host.Patience, func() string { return b.leftover(t) }); left != "" {
		t.Errorf("state that was full at the end: left behind:\n%s", left)
	}
	b.noState(t, state)
}

// noState wants nothing of the container one in a folder of the shim's records.
func (b *bed) noState(t *testing.T, state string) {
	t.Helper()
	if got := b.must(t, "find", state, "-path", "*/one*", "-ls"); got != "" {
		t.Errorf("left behind in %s:\n%s", state, got)
	}
}

// fails runs cloister-oci, which has to fail with an error that has a text.
func (b *bed) fails(t *testing.T, name, want string, args ...string) result {
	t.Helper()
	// A process that stays in spite of the error would hold the test's streams open.
	file := filepath.Join(b.Dir, "errors")
	r := b.run(t, "sh", append([]string{"-c", `f=$1; shift; exec "$@" </dev/null >"$f" 2>&1`, "sh", file, b.program}, args...)...)
	r.err = b.must(t, "cat", file)
	if r.code != 1 || !strings.Contains(r.err, want) {
		t.Errorf("%s: %v = %+v, want exit 1 and %q", name, args, r, want)
	}
	return r
}
