// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// shareTemplates gives the place the templates of all places, in the folder of the build. The first
// one that needs it makes a template for sandboxes without limits. Sandboxes of other sizes start
// cold, as on a host where nobody has built a template for them.
func (p *Place) shareTemplates(t testing.TB, config string) {
	t.Helper()
	build := testenv.Build(t)
	store := filepath.Join(build, "templates")
	own := filepath.Join(p.Dir, "cloister", "templates")
	if err := errors.Join(os.MkdirAll(store, 0o700), os.MkdirAll(filepath.Dir(own), 0o755)); err != nil {
		t.Fatal(err)
	}
	// The config may be written again for the same place.
	if err := os.Symlink(store, own); errors.Is(err, fs.ErrExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	// Of several test programs one builds, and the others find it.
	lock, err := os.OpenFile(store+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // nothing was written
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p.Run(t, filepath.Join(build, "cloister"), "--config", config, "template", "build", "--missing")
	t.Cleanup(func() { noFailure(t, store) })
}

// noFailure wants that no start from a shared template has failed: a test that goes on with a cold
// start would hide it, and the second failure would have all others start cold. A failure is told
// once, by the test that ends first.
func noFailure(t testing.TB, store string) {
	t.Helper()
	notes, err := filepath.Glob(filepath.Join(store, "failed-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range notes {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // told by another test
		}
		if err := errors.Join(err, os.Remove(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		t.Errorf("a start from a template has failed in this test or one beside it: %s", text)
	}
}
