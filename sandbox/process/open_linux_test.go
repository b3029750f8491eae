// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/recovery"
	"cloister/tests/testenv"
)

// TestOpenWithoutIdentity: where no identity is to be had in time, the caller is told so, and no
// record is left.
func TestOpenWithoutIdentity(t *testing.T) {
	testenv.NeedRoot(t)
	state, root := t.TempDir(), t.TempDir()
	lock := filepath.Join(root, "mcs/lock")
	if err := errors.Join(os.Mkdir(filepath.Dir(lock), 0o700), os.WriteFile(lock, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	fd := int(held.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	// What was begun is taken back once the lock is free.
	free := time.AfterFunc(time.Second, func() { _ = unix.Flock(fd, unix.LOCK_UN) })
	defer free.Stop()
	cfg := Config{Host: recovery.Host{State: state, Root: root, Labels: confine.Config{MAC: string(confine.None)}}}
	s, err := open(ctx, cfg, "default", "one", t.TempDir(), &oci.Workload{})
	if err == nil || s != nil {
		t.Fatalf("open = %v, %v, want an error", s, err)
	}
	if left, globErr := filepath.Glob(filepath.Join(state, "*/*")); globErr != nil || len(left) != 0 {
		t.Errorf("open (%v) leaves %q, %v", err, left, globErr)
	}
}
