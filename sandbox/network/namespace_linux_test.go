// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sys"
	"cloister/tests/testenv"
)

// TestOpenRefusesTheHostsNamespace: Docker before 23 names the host's network namespace by a path,
// for which the guest would have taken the host's links.
func TestOpenRefusesTheHostsNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	const own = "/proc/thread-self/ns/net"
	if n, err := Open(own); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("Open(%q) = %v, %v", own, n, err)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := sys.OnThread(func() error {
		// A mount namespace of its own, so that nobody else sees the mount.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount(own, kept, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if n, err := Open(kept); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Open of a file that keeps it = %v, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
