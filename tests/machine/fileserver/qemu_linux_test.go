// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// unchanged looks at a volume's file.
func (h *host) unchanged() error {
	if text, err := os.ReadFile(filepath.Join(h.volume, "file")); err != nil || string(text) != "data" {
		return fmt.Errorf("the volume's file is %q, %w", text, err)
	}
	return nil
}

// probe asks for the server's features; a server that does not answer is as good as one that ended.
func (h *host) probe() error {
	limit := unix.Timeval{Sec: 1}
	if err := unix.SetsockoptTimeval(h.guest.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	return h.guest.ask(getFeatures)
}

// messages are by what is wrong with them. A QEMU that was taken over sends them: no QEMU does.
func messages(t *testing.T) map[string]func(f *front) error {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o400); err != nil {
		t.Fatal(err)
	}
	opened := func(name string, flags int) int {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	file, folder, zero := opened(secret, unix.O_RDONLY), opened("/", unix.O_RDONLY|unix.O_DIRECTORY), opened("/dev/zero", unix.O_RDWR)
	memory := func(f *front, regions ...region) error {
		fds := make([]int, len(regions))
		for i := range fds {
			fds[i] = f.memfd
		}
		return f.send(setMemTable, table(regions...), fds...)
	}
	const half = memorySize / 2
	out := map[string]func(f *front) error{
		"overlapping memory": func(f *front) error {
			return memory(f, region{0, memorySize, userBase, 0}, region{half, memorySize, userBase + half, 0})
		},
		"the same memory twice":    func(f *front) error { return memory(f, region{0, half, userBase, 0}, region{0, half, userBase, 0}) },
		"memory beyond its file":   func(f *front) error { return memory(f, region{0, memorySize << 10, userBase, 0}) },
		"memory of all addresses":  func(f *front) error { return memory(f, region{0, math.MaxUint64, 0, 0}) },
		"an offset that overflows": func(f *front) error { return memory(f, region{0, memorySize, userBase, math.MaxUint64 - 4095}) },
		"no memory":                func(f *front) error { return memory(f) },
		"regions without files":    func(f *front) error { return f.send(setMemTable, table(region{0, memorySize, userBase, 0})) },
		"more regions than fit": func(f *front) error {
			return f.send(setMemTable, append(state(1<<30, 0), make([]byte, 256)...), f.memfd)
		},
		"memory of a file":       func(f *front) error { return f.send(setMemTable, table(region{0, 4096, userBase, 0}), file) },
		"memory of a folder":     func(f *front) error { return f.send(setMemTable, table(region{0, 4096, userBase, 0}), folder) },
		"memory of a device":     func(f *front) error { return f.send(setMemTable, table(region{0, 4096, userBase, 0}), zero) },
		"a folder as kick":       func(f *front) error { return f.send(setVringKick, u64(1), folder) },
		"a file as call":         func(f *front) error { return f.send(setVringCall, u64(1), file) },
		"a kick of no queue":     func(f *front) error { return f.send(setVringKick, u64(200), f.kick[1]) },
		"a queue outside memory": func(f *front) error { return f.send(setVringAddr, vring(1, 1, 2, 3)) },
		"an index of no queue":   func(f *front) error { return f.send(setVringAddr, vring(1<<20, userBase, userBase, userBase)) },
		"a size of gigabytes":    func(f *front) error { return f.raw(getFeatures, 1, math.MaxUint32, nil) },
		"a message cut short":    func(f *front) error { return f.raw(setVringAddr, 1, 40, make([]byte, 8)) },
		"another version":        func(f *front) error { return f.raw(getFeatures, 3, 0, nil) },
		"an unknown message":     func(f *front) error { return f.raw(9999, 1, 8, u64(1)) },
		"many descriptors": func(f *front) error {
			return f.send(getFeatures, nil, file, folder, zero, f.memfd, f.memfd, f.memfd, f.memfd)
		},
	}
	for _, size := range []uint32{0, 3, 1 << 16, math.MaxUint32} {
		out[fmt.Sprint("a queue of ", size)] = func(f *front) error { return f.send(setVringNum, state(1, size)) }
	}
	for name, chain := range map[string]descriptor{
		"a descriptor outside memory": {memorySize << 4, 64, 0, 0},
		"a descriptor of gigabytes":   {request, math.MaxUint32, 0, 0},
		"a chain that is a circle":    {request, 64, 1, 0},
		"a chain out of the table":    {request, 64, 1, 60000},
		"an indirect descriptor":      {request, 64, 4, 0},
		"a request of no bytes":       {request, 0, 0, 0},
		"an answer alone":             {request, 4096, 2, 0},
	} {
		out[name] = func(f *front) error {
			f.put(make([]byte, 64), 0)
			chain.write(f.memory[queueBytes:])
			_, err := unix.Write(f.kick[1], u64(1))
			return err
		}
	}
	return out
}
