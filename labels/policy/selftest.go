// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"

	"cloister/labels"
)

// Answer is the kernel's about one permission.
type Answer struct {
	Allowed bool
	// Permissive says that the source's domain is permissive: what is not allowed happens all the same.
	Permissive bool
}

// Kernel answers for the policy that is loaded.
type Kernel interface {
	// Allowed asks whether source has the permission on target; both are contexts as the kernel writes them. An unknown
	// context, class or permission is an error.
	Allowed(source, target, class, permission string) (Answer, error)
}

// ErrPolicy is the class of a policy that does not keep its promise.
var ErrPolicy = errors.New("policy does not separate sandboxes")

// question is one thing that must be so.
type question struct {
	source, target string // context without level
	own            bool   // asked at one level for both; otherwise the target has another pair
	class          string
	permission     string
	want           bool
}

func process(t string) string { return "system_u:system_r:" + t + ":" }
func object(t string) string  { return "system_u:object_r:" + t + ":" }

// questions are asked for one domain of the machine and its file server, with the types its files have.
func questions(machine, server, image, rootfs string) []question {
	list := []question{
		{process(machine), object(image), true, "file", "write", true},
		{process(machine), object(image), false, "file", "write", false},
		{process(machine), object(image), false, "file", "read", false},
		{process(machine), object(image), false, "blk_file", "write", false},
		{process(machine), process(machine), false, "process", "ptrace", false},
		{process(machine), process(machine), false, "process", "sigkill", false},
		{process(machine), process(machine), false, "unix_stream_socket", "connectto", false},
		{process(server), object(rootfs), true, "file", "write", true},
		{process(server), object(rootfs), false, "file", "write", false},
		{process(server), object(rootfs), false, "dir", "search", false},
		{process(server), process(server), false, "process", "ptrace", false},
		{process(machine), process(machine), true, "process", "setcurrent", false},
		{process(machine), process(machine), true, "process", "setexec", false},
	}
	if image != rootfs {
		// One type for both, as container-selinux has, cannot keep these apart.
		list = append(list,
			question{process(machine), object(rootfs), true, "file", "read", false},
			question{process(machine), object(rootfs), true, "chr_file", "open", false},
			question{process(server), object(rootfs), true, "chr_file", "open", false},
		)
	}
	return list
}

// Domains are the types that a sandbox uses.
type Domains struct {
	Machine, Server, Image, Rootfs string // types
}

// Own are the module's, with KVM or without.
func Own(kvm bool) Domains { return Of(labels.Own(kvm)) }

// Of are those of a set of types.
func Of(t labels.Types) Domains {
	return Domains{Machine: t.QEMU, Server: t.Virtiofsd, Image: t.Image, Rootfs: t.Rootfs}
}

// SelfTest asks the kernel whether the loaded policy keeps two pairs apart and lets each have its own: a pair that nothing
// constrains is worth nothing. It asks before the first start and after each load of a policy. The error names every
// answer that is wrong, and is an ErrPolicy; or the kernel's, if it could not be asked.
func SelfTest(k Kernel, d Domains) error {
	own, err := labels.NewPair(100, 101)
	if err != nil {
		return err
	}
	// They share a category, as pairs of different sandboxes may: one in common must not be enough.
	other, err := labels.NewPair(101, 102)
	if err != nil {
		return err
	}
	var wrong []error
	for _, q := range questions(d.Machine, d.Server, d.Image, d.Rootfs) {
		source := q.source + labels.NewLevel(0, own).String()
		target := q.target + labels.NewLevel(0, own).String()
		if !q.own {
			target = q.target + labels.NewLevel(0, other).String()
		}
		got, err := k.Allowed(source, target, q.class, q.permission)
		switch {
		case err != nil:
			return fmt.Errorf("ask the kernel for %s on %s:%s: %w", q.permission, target, q.class, err)
		case got.Permissive:
			return fmt.Errorf("%w: the domain of %s is permissive: semanage permissive -d it, or cloister policy install", ErrPolicy, source)
		case got.Allowed != q.want:
			wrong = append(wrong, fmt.Errorf("%w: %s on %s:%s is allowed to %s: %t, want %t",
				ErrPolicy, q.permission, target, q.class, source, got.Allowed, q.want))
		}
	}
	return errors.Join(wrong...)
}
