// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"testing"

	"cloister/sandbox/jail"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// TestJail starts QEMU and virtiofsd and reads back what they have, before a guest's first
// instruction. What the other tests of this package do, they do in that jail.
func TestJail(t *testing.T) { eachBoard(t, testJail) }

func testJail(t *testing.T, board vmm.MachineType) {
	t.Helper()
	_, server := share(t)
	m := describe(t, board)
	m.Share = &vmm.Share{Tag: "cloister"}
	p, err := qemu.Start(t.Context(), m, qemu.Options{
		Binary: testenv.NeedQEMU(t), Starter: jailed(forQEMU),
		Dir: t.TempDir(), Share: server.Socket(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(forQEMU(jail.Config{}).Verify(p.Pid()), server.Jail.Verify(server.Pid())); err != nil {
		t.Error(err)
	}
	// The file server may have what QEMU must not.
	if err := forQEMU(jail.Config{}).Verify(server.Pid()); !errors.Is(err, jail.ErrEscaped) {
		t.Errorf("virtiofsd in QEMU's jail = %v, want %v", err, jail.ErrEscaped)
	}
}
