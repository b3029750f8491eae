// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

func TestOnThreadIsNeverTheMainOne(t *testing.T) {
	want := errors.New("mine")
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			err := OnThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					return errors.New("on the main thread")
				}
				return want
			})
			if !errors.Is(err, want) {
				t.Errorf("OnThread = %v, want %v", err, want)
			}
		})
	}
	group.Wait()
	if err := OnThread(func() error { runtime.Goexit(); return nil }); !errors.Is(err, ErrGoexit) {
		t.Errorf("OnThread of Goexit = %v, want %v", err, ErrGoexit)
	}
}

func TestNamespacesChangeNoOtherThread(t *testing.T) {
	testenv.NeedRoot(t)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var ns *os.File
	if err := OnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	mount, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	var entered string
	if err := (Namespaces{Network: ns, Mount: mount}).Do(func() (err error) {
		entered, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if entered == own {
		t.Error("Do did not enter the network namespace")
	}
	for range 50 { // no thread of the pool has kept it
		if now, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || now != own {
			t.Fatalf("network namespace %s, %v, want %s", now, err, own)
		}
		runtime.Gosched()
	}
	if err := (Namespaces{Mount: ns}).Do(func() error { return nil }); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a network namespace entered as a mount namespace = %v, want EINVAL", err)
	}
}
