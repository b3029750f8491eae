// SPDX-License-Identifier: Apache-2.0

// Command holdguest keeps one guest of KVM's that never runs, until it is ended. It belongs into
// each throwaway machine that starts guests.
//
// KVM changes code of the kernel when its first guest is made and when its last one is gone, in the
// middle of the scheduler's switch from one task to the next (preempt_notifier_key, and for the
// first processor apic_sw_disabled). Linux writes a breakpoint there while it does so. QEMU's
// emulation may keep its translation of that breakpoint for good, if another processor comes by at
// that moment. Linux then finds no breakpoint in memory, goes back and tries again, without end and
// with a lock held: the machine stops. With this guest there is neither a first nor a last one.
//
// It keeps an event of perf for the same reason (perf_sched_events): `cloister prove` opens one.
package main

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// The requests of linux/kvm.h.
const (
	createVM      = 0xae01
	createVCPU    = 0xae41
	createIRQChip = 0xae60
)

func main() {
	if err := hold(); err != nil {
		fmt.Fprintln(os.Stderr, "holdguest:", err)
		os.Exit(1)
	}
	if err := measure(); err != nil { // a guest alone is worth keeping
		fmt.Fprintln(os.Stderr, "holdguest: perf:", err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	<-ended
}

// hold makes the guest with one processor. Its interrupt controller is off, as after a reset. The
// guest is there until the descriptors are closed, which is at this process's end.
func hold() error {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	vm, err := unix.IoctlRetInt(kvm, createVM)
	if err != nil {
		return fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	if err := unix.IoctlSetInt(vm, createIRQChip, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	if _, err := unix.IoctlRetInt(vm, createVCPU); err != nil {
		return fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	return nil
}

// measure opens an event of this process that counts nothing.
func measure() error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Size: unix.PERF_ATTR_SIZE_VER0}
	_, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return err
}
