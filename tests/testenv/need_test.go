// SPDX-License-Identifier: Apache-2.0

package testenv

import "testing"

func TestRequired(t *testing.T) {
	tests := []struct {
		list, name string
		want       bool
	}{
		{"", QEMU, false},
		{"qemu", QEMU, true},
		{"root,qemu", QEMU, true},
		{"root, qemu", QEMU, true},
		{"all", QEMU, true},
		{"all,-kvm", QEMU, true},
		{"all,-kvm", KVM, false},
		{"-kvm, all", KVM, false},
		{"qemus", QEMU, false},
	}
	for _, tt := range tests {
		if got := required(tt.list, tt.name); got != tt.want {
			t.Errorf("required(%q, %q) = %t, want %t", tt.list, tt.name, got, tt.want)
		}
	}
}
