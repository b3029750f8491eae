// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// install puts the filter onto the calling thread, which must have no_new_privs or CAP_SYS_ADMIN.
// The thread may then start one program, with cloneflags. It holds for the thread and what it
// starts, through every exec, and cannot be taken off. FilterFlagLog has what it refuses in the
// audit log.
func (c Calls) install(cloneflags uintptr) error {
	policy, err := c.policy(cloneflags)
	if err != nil {
		return fmt.Errorf("system call filter: %w", err)
	}
	filter := seccomp.Filter{Flag: seccomp.FilterFlagLog, Policy: policy}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("system call filter: %w", err)
	}
	return nil
}

// policy leaves out names that this processor has no system call of: arm64 has no open. It is pure,
// so that tests can evaluate it.
func (c Calls) policy(cloneflags uintptr) (seccomp.Policy, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, err
	}
	names := slices.DeleteFunc(slices.Clone(c.names), func(name string) bool {
		_, known := info.SyscallNames[name]
		return !known
	})
	// os/exec starts the program by a clone with these flags alone. Any other clone that makes a
	// process stays forbidden, to the thread and to the program.
	start := uint64(unix.CLONE_VFORK | unix.CLONE_VM | unix.CLONE_PIDFD | uintptr(unix.SIGCHLD) | cloneflags)
	allow := seccomp.SyscallGroup{Action: seccomp.ActionAllow, Names: names}
	for _, d := range append(slices.Clone(c.conditions), condition{"clone", 0, ^uint64(0), start}) {
		// "Bits set" is weaker than equal: a clone with more flags than CLONE_THREAD passes. The
		// kernel itself refuses new namespaces together with CLONE_THREAD or asks for capabilities.
		operation := seccomp.BitsSet
		if d.mask == ^uint64(0) {
			operation = seccomp.Equal
		}
		allow.NamesWithCondtions = append(allow.NamesWithCondtions, seccomp.NameWithConditions{
			Name: d.name, Conditions: seccomp.ArgumentConditions{{Argument: d.argument, Operation: operation, Value: d.value}},
		})
	}
	p := seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{
		allow, {Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
	}}
	if c.Log {
		p.DefaultAction = seccomp.ActionLog
	}
	return p, nil
}

// check compares the filters of a process with those that it should have: this process's, the
// jail's and the program's own. Their number is all that the kernel tells; it does not show what a
// filter lets through.
func (c Calls) check(fields map[string]string) error {
	if fields["Seccomp"] != "2" {
		return fmt.Errorf("%w: Seccomp is %q, want 2, a filter", ErrEscaped, fields["Seccomp"])
	}
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	// A shim that runs in a container has filters itself, which every child gets.
	inherited, err := strconv.Atoi(statusOf(text)["Seccomp_filters"])
	if err != nil {
		return fmt.Errorf("count filters: %w: this needs Linux 5.9", err)
	}
	want := inherited + 1
	if fields["Pid"] == fields["Tgid"] {
		want += c.OwnFilters
	}
	have, err := strconv.Atoi(fields["Seccomp_filters"])
	if err != nil || have < want {
		return fmt.Errorf("%w: Seccomp_filters is %q, want %d", ErrEscaped, fields["Seccomp_filters"], want)
	}
	return nil
}

// statusOf reads the lines of /proc/PID/status. A line without a colon is left out.
func statusOf(text []byte) map[string]string {
	fields := map[string]string{}
	for line := range bytes.Lines(text) {
		if name, value, ok := strings.Cut(string(line), ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}
