// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestBadStateFolder: check finds what a start would trip over in the state folder.
func TestBadStateFolder(t *testing.T) {
	testenv.NeedRoot(t)
	s := fakeSite(t, nil)
	s.root = ""
	good, open, foreign := t.TempDir(), t.TempDir(), t.TempDir()
	readOnly, full := t.TempDir(), t.TempDir()
	mount := func(target, options string, flags uintptr) error {
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
		return unix.Mount("tmpfs", target, "tmpfs", flags, options)
	}
	if err := errors.Join(os.Chmod(open, 0o777), os.Chown(foreign, 65534, 0),
		mount(readOnly, "mode=755", unix.MS_RDONLY), mount(full, "mode=755,size=64k", 0)); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		good: "", open: "others may write",
		foreign: "owner is uid 65534", readOnly: "cannot be written", full: "is full",
	} {
		list := s.ownFolder("state", path)
		if says == "" {
			if len(list) > 0 {
				t.Errorf("a good folder: %+v", list)
			}
			continue
		}
		if len(list) != 1 || list[0].Grade != gradeFail || !strings.Contains(list[0].Found, says) {
			t.Errorf("%s: %+v, want one that says %q", path, list, says)
		}
	}
}
