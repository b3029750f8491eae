// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/testenv"
)

// answer asks a compiled policy about one access at two levels. A target is a process's context or
// a file's, whichever the policy knows.
func answer(k policy.Kernel, w want, source, target string) (bool, error) {
	from := process(w.source, source)
	got, err := k.Allowed(from, process(w.target, target), w.class, w.permission)
	if errors.Is(err, syscall.EINVAL) {
		got, err = k.Allowed(from, object(w.target, target), w.class, w.permission)
	}
	return got.Allowed, err
}

// questions asks a compiled policy what the matrix will try in the machine, and what the shim asks
// before it starts a sandbox.
func questions(t *testing.T, path string) {
	t.Helper()
	k, err := policy.OpenCompiled(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	for _, kvm := range []bool{true, false} {
		if err := policy.SelfTest(k, policy.Of(labels.Own(kvm))); err != nil {
			t.Errorf("%s, KVM %t: %v", path, kvm, err)
		}
	}
	if err := policy.SelfTest(k, policy.Of(labels.Own(true).Plain())); err != nil {
		t.Errorf("%s, plain containers: %v", path, err)
	}
	accesses(t, k, onEngines())
	accesses(t, k, onTemplates())
	logins(t, k)
	asked, denied := 0, 0
	for _, a := range whole() {
		source, target := levelA, levelB
		for _, p := range parties() {
			if p.name == a.target() {
				target = p.level
			}
		}
		if a.tag == cpb {
			target = source
		}
		allowed, err := answer(k, a.want, source, target)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EINVAL):
			t.Logf("%s: not asked: %v", a.key(), err)
			continue
		case err != nil:
			t.Fatal(err)
		case allowed:
			t.Errorf("%s: %s is allowed", a.key(), a.want)
		default:
			denied++
		}
		asked++
	}
	t.Logf("%s: %d of the matrix's accesses asked, %d denied", path, asked, denied)
	for _, q := range ofShim() {
		allowed, err := answer(k, q.want, "s0", "s0")
		if errors.Is(err, syscall.EINVAL) {
			t.Logf("%s: not asked: %v", q.want, err)
		} else if err != nil || allowed != q.allowed {
			t.Errorf("%s: %s: %t, %v, want %t", path, q.want, allowed, err, q.allowed)
		}
	}
}

// access is one access at two levels, and whether a policy has to allow it.
type access struct {
	want
	source, target string
	allowed        bool
}

const (
	ownLevel, otherLevel, lowLevel = "s0:c1,c2", "s0:c1,c3", "s0"
)

// onEngines are accesses to what an engine has labelled with the type of plain containers' files:
// the file server uses it at its own pair and where it has none, and QEMU never does.
func onEngines() []access {
	return []access{
		{want{policy.VirtiofsdType, policy.ContainerFileType, "file", "write"}, ownLevel, ownLevel, true},
		{want{policy.VirtiofsdType, policy.ContainerFileType, "file", "write"}, ownLevel, lowLevel, true},
		{want{policy.VirtiofsdType, policy.ContainerFileType, "file", "write"}, ownLevel, otherLevel, false},
		{want{policy.VirtiofsdType, policy.ContainerFileType, "dir", "search"}, ownLevel, otherLevel, false},
		{want{policy.VirtiofsdType, policy.ContainerFileType, "chr_file", "open"}, ownLevel, ownLevel, false},
		{want{policy.VirtiofsdType, policy.ContainerFileType, "blk_file", "open"}, ownLevel, ownLevel, false},
		{want{policy.QEMUType, policy.ContainerFileType, "file", "write"}, ownLevel, ownLevel, false},
	}
}

// onTemplates are accesses to a template's memory, which many machines map. No other domain has
// any, and no machine changes or runs it.
func onTemplates() []access {
	var all []access
	for _, domain := range []string{policy.QEMUType, policy.QEMUTCGType} {
		for _, right := range []string{"open", "read", "write", "map", "getattr"} {
			all = append(all, access{want{domain, policy.TemplateType, "file", right}, ownLevel, lowLevel, true})
		}
		for _, right := range []string{"execute", "append", "setattr", "ioctl", "relabelfrom"} {
			all = append(all, access{want{domain, policy.TemplateType, "file", right}, ownLevel, lowLevel, false})
		}
	}
	for _, domain := range []string{policy.VirtiofsdType, policy.ContainerType} {
		for _, right := range []string{"open", "read", "write"} {
			all = append(all, access{want{domain, policy.TemplateType, "file", right}, ownLevel, lowLevel, false})
		}
	}
	return all
}

// logins asks about an engine that a login has started, and so a shim of the login's user: it gives
// what it starts the system's user, which alone may make files where an engine has mounted with
// context=.
func logins(t *testing.T, k policy.Kernel) {
	t.Helper()
	const login = "unconfined_u:system_r:"
	for _, domain := range []string{policy.QEMUType, policy.VirtiofsdType, policy.ContainerType} {
		got, err := k.Allowed(login+policy.ShimType+":s0", process(domain, ownLevel), "process", "transition")
		if err != nil || !got.Allowed {
			t.Errorf("the shim of a login may start %s of the system's user: %t, %v, want true", domain, got.Allowed, err)
		}
	}
	for _, domain := range []string{policy.VirtiofsdType, policy.ContainerType} {
		got, err := k.Allowed(login+domain+":"+ownLevel, object(policy.ContainerFileType, ownLevel), "dir", "create")
		if err != nil || got.Allowed {
			t.Errorf("%s of a login's user may make folders of the system's user: %t, %v, want false", domain, got.Allowed, err)
		}
	}
}

// onFedora are accesses that a host with Fedora's conditions needs, or must not give: engines of
// both kinds start the shim, the file server uses what they labelled at its own pair, libvirt and
// Kata keep the file server's program, and id-mapped volumes work.
func onFedora() []access {
	return []access{
		{want{"unconfined_service_t", policy.ShimType, "process", "transition"}, lowLevel, lowLevel, true},
		{want{"container_runtime_t", policy.ShimType, "process", "transition"}, lowLevel, lowLevel, true},
		{want{policy.ShimType, policy.ShimType, "user_namespace", "create"}, lowLevel, lowLevel, true},
		{want{policy.ShimType, policy.QEMUType, "process2", "nnp_transition"}, lowLevel, ownLevel, true},
		{want{policy.ShimType, policy.VirtiofsdType, "process2", "nnp_transition"}, lowLevel, ownLevel, true},
		{want{"virtqemud_t", policy.VirtiofsdExecType, "file", "execute_no_trans"}, lowLevel, lowLevel, true},
		{want{"container_kvm_t", policy.VirtiofsdExecType, "file", "entrypoint"}, ownLevel, lowLevel, true},
		{want{policy.VirtiofsdType, "container_file_t", "file", "write"}, ownLevel, ownLevel, true},
		{want{policy.VirtiofsdType, "container_file_t", "file", "write"}, ownLevel, otherLevel, false},
		{want{policy.VirtiofsdType, "container_file_t", "dir", "search"}, ownLevel, otherLevel, false},
		{want{policy.VirtiofsdType, "container_file_t", "chr_file", "open"}, ownLevel, ownLevel, false},
		{want{policy.QEMUType, "container_file_t", "file", "write"}, ownLevel, ownLevel, false},
		{want{"container_t", policy.RootfsType, "file", "read"}, ownLevel, ownLevel, false},
	}
}

// accesses asks a policy about a list of them.
func accesses(t *testing.T, k policy.Kernel, list []access) {
	t.Helper()
	for _, q := range list {
		if allowed, err := answer(k, q.want, q.source, q.target); err != nil || allowed != q.allowed {
			t.Errorf("%s at %s, on %s: %t, %v, want %t", q.want, q.want.source+":"+q.source, q.target, allowed, err, q.allowed)
		}
	}
}

// fedoraQuestions asks a compiled policy with Fedora's types about them.
func fedoraQuestions(t *testing.T, path string) {
	t.Helper()
	k, err := policy.OpenCompiled(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	accesses(t, k, onFedora())
	missing, err := policy.Unconstrained(k, policy.Of(labels.Svirt(true)))
	sockets := func(text string) bool { return strings.HasPrefix(text, "unix_stream_socket {") }
	if err != nil || !slices.ContainsFunc(missing, sockets) {
		t.Errorf("pairs of the base policy leave open: %q, %v, want sockets among it: this is no policy like Fedora's", missing, err)
	}
}

// TestCompiledPolicy asks a policy that COMPILED_POLICY names, with cloister's module in it: any
// distribution's, without a machine.
func TestCompiledPolicy(t *testing.T) {
	testenv.NeedTool(t, "checkpolicy")
	path := os.Getenv("COMPILED_POLICY")
	if path == "" {
		t.Skip("COMPILED_POLICY names no compiled policy; the lab asks its own before the machine starts")
	}
	questions(t, path)
	if os.Getenv("POLICY") == fedoraPolicy {
		fedoraQuestions(t, path)
	}
}
