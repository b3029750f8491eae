// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloister/labels"
)

// Answer is the kernel's about one permission.
type Answer struct {
	Allowed bool
	// Permissive says that the source's domain is permissive: what is not allowed happens all the
	// same.
	Permissive bool
}

// Kernel answers for the policy that is loaded, or for a compiled one.
type Kernel interface {
	// Allowed asks whether source has the permission on target; both are contexts as the kernel
	// writes them. An unknown context, class or permission is an error.
	Allowed(source, target, class, permission string) (Answer, error)
}

// ErrPolicy is the class of a policy that does not keep its promise. The set of types that was
// asked about is not used then.
var ErrPolicy = errors.New("policy does not separate sandboxes")

// question is one thing that must be so. Most are denials; a few rights that a guest cannot do
// without show that the questions name what the policy has.
type question struct {
	source, target string // context without level
	own            bool   // asked at one level for both; otherwise the target has another pair
	class          string
	permission     string
	want           bool
}

func process(t string) string { return "system_u:system_r:" + t + ":" }
func object(t string) string  { return "system_u:object_r:" + t + ":" }

// questions are asked for one domain of the machine and its file server, with the types its files
// have. A process must not change its label (setcurrent, setexec) even at its own pair: it would
// leave its pair so. A guest makes device nodes through the file server, and so neither side may
// open one of the served type: it may be a disk of the host.
func questions(machine, server, image, rootfs string) []question {
	list := []question{
		{process(machine), object(image), true, "file", "write", true},
		{process(server), object(rootfs), true, "file", "write", true},
		{process(machine), process(machine), true, "process", "setcurrent", false},
		{process(machine), process(machine), true, "process", "setexec", false},
	}
	never := func(source, target, class string, permissions ...string) {
		for _, permission := range permissions {
			list = append(list, question{source, target, false, class, permission, false})
		}
	}
	never(process(machine), object(image), "file", "read", "write", "append")
	never(process(machine), object(image), "blk_file", "read", "write", "append", "ioctl")
	never(process(server), object(rootfs), "file", "read", "write", "append", "setattr", "unlink")
	never(process(server), object(rootfs), "dir", "search", "read", "write", "add_name", "remove_name")
	never(process(server), object(rootfs), "lnk_file", "read", "unlink")
	never(process(server), object(rootfs), "fifo_file", "read", "write", "append")
	domains := []string{machine}
	if server != machine {
		domains = append(domains, server)
	}
	for _, from := range domains {
		for _, to := range domains {
			between(process(from), process(to), never)
		}
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

// between are what a process of one sandbox may never do to one of another: by a signal, by its
// limits and priority, by a socket, a pipe or a key that it has come by, or by memory. Policies
// differ in which of these their pairs constrain.
func between(from, to string, never func(source, target, class string, permissions ...string)) {
	never(from, to, "process", "ptrace", "sigkill", "sigstop", "signal", "setsched", "getsched", "setrlimit",
		"getattr", "getcap", "setcap", "setpgid", "share")
	never(from, to, "unix_stream_socket", "connectto", "read", "write")
	never(from, to, "unix_dgram_socket", "sendto", "read", "write")
	never(from, to, "fifo_file", "read", "write", "append")
	never(from, to, "shm", "read", "write", "unix_read", "unix_write")
	never(from, to, "sem", "read", "write", "unix_read", "unix_write")
	never(from, to, "msgq", "read", "write", "unix_read", "unix_write")
	never(from, to, "key", "read", "write", "search")
	never(from, to, "file", "read", "write")
	never(from, to, "dir", "search")
}

// Domains are the types that a sandbox uses.
type Domains struct {
	Machine, Server, Image, Rootfs string // types
}

// Of are those of a set of types.
func Of(t labels.Types) Domains {
	return Domains{Machine: t.QEMU, Server: t.Virtiofsd, Image: t.Image, Rootfs: t.Rootfs}
}

// SelfTest asks the kernel whether the loaded policy keeps two pairs apart and lets each have its
// own: a pair that nothing constrains is worth nothing. That a domain exists and can be entered
// does not say so. It is asked before each start, since a policy may be loaded at any time. The
// error names every answer that is wrong, and is an ErrPolicy; or the kernel's, if it could not be
// asked.
func SelfTest(k Kernel, d Domains) error {
	wrong, err := answers(k, d)
	if err != nil || len(wrong) == 0 {
		return err
	}
	problems := make([]error, 0, len(wrong))
	for _, w := range wrong {
		problems = append(problems, fmt.Errorf("%w: %s", ErrPolicy, w))
	}
	return errors.Join(problems...)
}

// mistake is what the policy answers otherwise than it must, of one source and target.
type mistake struct {
	source, target, class string
	permissions           []string
	want                  bool
}

func (m mistake) String() string {
	return fmt.Sprintf("{ %s } on %s:%s is allowed to %s: %t, want %t", strings.Join(m.permissions, " "),
		m.target, m.class, m.source, !m.want, m.want)
}

// answers asks every question and gives the wrong answers, those of one source, target and class in
// one. It stops at a permissive domain, of which no answer is worth anything. The level is of s0:
// the constraints of pairs do not look at the sensitivity.
func answers(k Kernel, d Domains) ([]mistake, error) {
	own, err := labels.NewPair(100, 101)
	if err != nil {
		return nil, err
	}
	// They share a category, as pairs of different sandboxes may: one in common must not be enough.
	other, err := labels.NewPair(101, 102)
	if err != nil {
		return nil, err
	}
	var wrong []mistake
	for _, q := range questions(d.Machine, d.Server, d.Image, d.Rootfs) {
		source := q.source + labels.NewLevel(0, own).String()
		target := q.target + labels.NewLevel(0, own).String()
		if !q.own {
			target = q.target + labels.NewLevel(0, other).String()
		}
		got, err := k.Allowed(source, target, q.class, q.permission)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ask the kernel for %s on %s:%s: %w", q.permission, target, q.class, err)
		case got.Permissive:
			return nil, fmt.Errorf("%w: the type of %s is permissive: run: semanage permissive -d TYPE, or: cloister policy install",
				ErrPolicy, source)
		case got.Allowed != q.want:
			m := mistake{source: source, target: target, class: q.class, want: q.want}
			if n := len(wrong) - 1; n >= 0 && wrong[n].source == source && wrong[n].target == target &&
				wrong[n].class == q.class && wrong[n].want == q.want {
				wrong[n].permissions = append(wrong[n].permissions, q.permission)
				continue
			}
			m.permissions = []string{q.permission}
			wrong = append(wrong, m)
		}
	}
	return wrong, nil
}

// Unconstrained lists, as "class { permissions }", what the pairs of this policy do not keep the
// given domains from doing to each other; nothing when the policy keeps them apart. It is for
// people, as `cloister check` shows it.
func Unconstrained(k Kernel, d Domains) ([]string, error) {
	wrong, err := answers(k, d)
	var list []string
	for _, w := range wrong {
		text := fmt.Sprintf("%s { %s }", w.class, strings.Join(w.permissions, " "))
		if !w.want && !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	return list, err
}
