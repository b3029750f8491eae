// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/vmm"
	"cloister/vmm/qemu"
)

// soak has the guest do something number times, and again until the time is over that TEST_TIME
// says ("10m"); without it, once.
func (r *running) soak(what string, number int, command string) {
	r.t.Helper()
	most, err := time.ParseDuration(cmp.Or(os.Getenv("TEST_TIME"), "0s"))
	if err != nil {
		r.t.Fatal(err)
	}
	total, begin := 0, time.Now()
	for total == 0 || time.Since(begin) < most {
		r.want(fmt.Sprintf("%d done", number), "%s", command)
		if r.t.Failed() {
			r.t.Fatalf("after %d %s in %s", total, what, time.Since(begin).Round(time.Second))
		}
		total += number
	}
	r.t.Logf("%d %s in %s", total, what, time.Since(begin).Round(time.Second))
}

// TestDiskReadsAreAnswered is TestLookupsAreAnswered for disks.
func TestDiskReadsAreAnswered(t *testing.T) {
	eachBoard(t, func(t *testing.T, board vmm.MachineType) {
		d := vmm.Disk{LUN: 3, Path: filepath.Join(t.TempDir(), "disk"), ReadOnly: true}
		if err := os.WriteFile(d.Path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := qemu.OpenDisk(d)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		m := describe(t, board)
		m.Disks = []vmm.Disk{d}
		r := boot(t, m, qemu.Options{Disks: []*os.File{f}})
		r.want("3 2048 1", "disks")
		r.soak("reads", 2000, "reads 3 10 200")
		r.end()
	})
}

// TestDatagramsAreAnswered is TestLookupsAreAnswered for NICs.
func TestDatagramsAreAnswered(t *testing.T) {
	eachBoard(t, func(t *testing.T, board vmm.MachineType) {
		f := tap(t)
		echo(t, f)
		m := describe(t, board)
		m.NICs = []vmm.NIC{{ID: "eth0", MAC: "02:00:00:00:99:02", MTU: 1500}}
		r := boot(t, m, qemu.Options{Taps: []*os.File{f}})
		r.wantSoon("02:00:00:00:99:02 1500 1", "links")
		r.soak("datagrams", 2000, "datagrams 10 200")
		r.end()
	})
}

// TestAgentMessagesAreAnswered is TestLookupsAreAnswered for the agent's port.
func TestAgentMessagesAreAnswered(t *testing.T) {
	eachBoard(t, func(t *testing.T, board vmm.MachineType) {
		r := boot(t, describe(t, board), qemu.Options{})
		for range 1000 {
			r.want("word", "echo word")
		}
		r.soak("words", 1, "echo 1 done")
		r.end()
	})
}

// echo answers each datagram that comes out of a tap, without an address on the host: it swaps who
// sent and who gets it.
func echo(t *testing.T, f *os.File) {
	t.Helper()
	r, err := unix.NewIfreq("")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNGETIFF, r); err != nil {
		t.Fatal(err)
	}
	link, err := net.InterfaceByName(r.Name())
	if err != nil {
		t.Fatal(err)
	}
	const ipv4 = 0x0008 // ETH_P_IP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ipv4)
	if err != nil {
		t.Fatal(err)
	}
	raise(t, r)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: link.Index}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		<-done
		_ = unix.Close(fd)
	})
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		answerAll(t, fd)
	}()
}

// raise takes a link up.
func raise(t *testing.T, link *unix.Ifreq) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	link.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, link); err != nil {
		t.Fatal(err)
	}
}

// answerAll sends every datagram back until the link is gone or the socket is shut down. Sums of
// IP and UDP stay right when addresses and ports trade places; that of a frame that the guest left
// to its NIC is taken out, which IPv4 allows.
func answerAll(t *testing.T, fd int) {
	const outgoing, headers, udp = 4, 14 + 20 + 8, 17
	frame := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(fd, frame, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			if t.Context().Err() != nil {
				return
			}
			continue
		case err != nil:
			return
		}
		if who, ok := from.(*unix.SockaddrLinklayer); !ok || who.Pkttype == outgoing || n < headers || frame[23] != udp {
			continue
		}
		swap(frame[0:6], frame[6:12])    // MAC addresses
		swap(frame[26:30], frame[30:34]) // IP addresses
		swap(frame[34:36], frame[36:38]) // ports
		frame[40], frame[41] = 0, 0      // sum
		_, _ = unix.Write(fd, frame[:n])
	}
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
