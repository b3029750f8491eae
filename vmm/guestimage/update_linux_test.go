// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// built is an image of a fake kernel, and options that make another one in its place.
func built(t *testing.T, agent string) (opts Options, want map[string][]byte) {
	t.Helper()
	opts = testOptions(t, agent)
	image, err := opts.build(t.Context(), &fakeKernel{}, progress{})
	if err != nil {
		t.Fatal(err)
	}
	want = readAll(t, image.Dir)
	opts.Protocol++
	return opts, want
}

// kept checks that the old image is there and that nothing is beside it.
func kept(t *testing.T, opts Options, want map[string][]byte) {
	t.Helper()
	for name, data := range readAll(t, opts.Output) {
		if string(want[name]) != string(data) {
			t.Errorf("%s of the old image has changed", name)
		}
	}
	alone(t, opts)
}

func alone(t *testing.T, opts Options) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(opts.Output))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(opts.Output) && e.Name() != filepath.Base(opts.Cache) {
			t.Errorf("%s is left beside the image", e.Name())
		}
	}
}

func testUpdateKeepsOldImageOnError(t *testing.T, agent string) {
	t.Helper()
	opts, want := built(t, agent)
	broken := errors.New("does not boot")
	opts.Try = func(_ context.Context, i *Image) error {
		if i.Manifest.Agent.Protocol != opts.Protocol || i.Verify() != nil || i.Dir == opts.Output {
			t.Errorf("the image that is tried is %+v", i)
		}
		return broken
	}
	if _, err := opts.build(t.Context(), &fakeKernel{}, progress{}); !errors.Is(err, broken) {
		t.Errorf("build of an image that does not boot = %v, want %v", err, broken)
	}
	kept(t, opts, want)

	ctx, cancel := context.WithCancel(t.Context())
	opts.Try = func(ctx context.Context, _ *Image) error {
		cancel()
		return context.Cause(ctx)
	}
	if _, err := opts.build(ctx, &fakeKernel{}, progress{}); !errors.Is(err, context.Canceled) {
		t.Errorf("build that is canceled = %v, want context.Canceled", err)
	}
	kept(t, opts, want)

	// What a build that was killed has left is removed by the next one.
	left := filepath.Join(filepath.Dir(opts.Output), "."+filepath.Base(opts.Output)+"-123")
	if err := errors.Join(os.Mkdir(left, 0o755), os.WriteFile(filepath.Join(left, KernelName), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	opts.Try = nil
	image, err := opts.build(t.Context(), &fakeKernel{}, progress{})
	if err != nil || image.Manifest.Agent.Protocol != opts.Protocol {
		t.Errorf("the build after the failures = %+v, %v", image, err)
	}
	alone(t, opts)
}

func testTwoUpdatesAtOnce(t *testing.T, agent string) {
	t.Helper()
	opts, _ := built(t, agent)
	tried, at := 0, sync.Mutex{}
	opts.Try = func(context.Context, *Image) error {
		if !at.TryLock() {
			t.Error("two images are tried at once")
			return nil
		}
		defer at.Unlock()
		tried++
		return nil
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := opts.build(t.Context(), &fakeKernel{}, progress{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if tried != 1 {
		t.Errorf("the same image was built %d times", tried)
	}
	alone(t, opts)
}

func testUpdateOnFullDisk(t *testing.T, agent string) {
	t.Helper()
	testenv.NeedRoot(t)
	opts, _ := built(t, agent)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	opts.Output = filepath.Join(disk, "image")
	if _, err := opts.build(t.Context(), &fakeKernel{}, progress{}); err != nil {
		t.Fatal(err)
	}
	want := readAll(t, opts.Output)
	if err := os.WriteFile(filepath.Join(disk, "full"), make([]byte, 32<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk = %v, want ENOSPC", err)
	}
	opts.Protocol++
	if _, err := opts.build(t.Context(), &fakeKernel{}, progress{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("build on a full disk = %v, want ENOSPC", err)
	}
	if err := os.Remove(filepath.Join(disk, "full")); err != nil {
		t.Fatal(err)
	}
	kept(t, opts, want)
}

func TestParsePolicy(t *testing.T) {
	got := parsePolicy(`crun:
  Installed: 1.8.1-1
  Candidate: 1.8.1-1+deb12u1
  Version table:
     1.8.1-1+deb12u1 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
virtual:
  Installed: (none)
  Candidate: (none)
  Version table:
libc6:
  Installed: (none)
  Candidate: 2.36-9
`)
	if len(got) != 2 || got["crun"] != "1.8.1-1+deb12u1" || got["libc6"] != "2.36-9" {
		t.Errorf("parsePolicy = %v", got)
	}
}

func TestNewer(t *testing.T) {
	testenv.NeedTool(t, "dpkg")
	for _, tt := range []struct {
		name, installed, offered, found string
		here                            bool
	}{
		{"same", "1.8-1", "1.8-1", "", false},
		{"unknown", "", "", "", false},
		{"older", "1.7-1", "1.8~rc1-1", "", false},
		{"installed", "1.8-1+b1", "1.8-1", "1.8-1+b1", true},
		{"offered", "1.8-1", "1.10-1", "1.10-1", false},
		{"both", "1.9-1", "1.9-1", "1.9-1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := newer(Package{Name: "crun", Version: "1.8-1"}, tt.installed, tt.offered)
			if err != nil {
				t.Fatal(err)
			}
			if got == nil {
				got = &Newer{}
			}
			if got.Found != tt.found || got.Installed != tt.here {
				t.Errorf("newer = %+v, want %q, installed %t", got, tt.found, tt.here)
			}
		})
	}
}
