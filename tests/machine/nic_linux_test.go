// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// tap opens a tap that goes when it is closed.
func tap(t *testing.T) *os.File {
	t.Helper()
	testenv.NeedTun(t)
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	r, err := unix.NewIfreq("clotest%d")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, r); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNICs(t *testing.T) { eachBoard(t, testNICs) }

func testNICs(t *testing.T, board vmm.MachineType) {
	t.Helper()
	m := describe(t, board)
	m.NICs = []vmm.NIC{
		{ID: "eth0", MAC: "02:AA:00:00:00:01", MTU: 1400},
		{ID: "spare0", MAC: "02:aa:00:00:00:02", LinkDown: true},
	}
	r := boot(t, m, qemu.Options{Taps: []*os.File{tap(t), tap(t)}})
	r.wantSoon("02:aa:00:00:00:01 1400 1;02:aa:00:00:00:02 1500 0", "links") // the kernel looks for a carrier by and by
	if err := r.SetLink(t.Context(), "spare0", true); err != nil {
		t.Fatal(err)
	}
	r.wantSoon("02:aa:00:00:00:01 1400 1;02:aa:00:00:00:02 1500 1", "links")
	if err := r.SetLink(t.Context(), "none", true); err == nil {
		t.Error("SetLink of no NIC = nil, want an error")
	}
}
