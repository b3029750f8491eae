// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"slices"
	"strings"
	"testing"
)

// room says what the packages at and below a folder may import of this module. A name that ends in
// /... stands for a folder and all below it, another for that one package.
type room struct {
	folder string
	may    []string
}

// rooms is the table of the design, longest folder first where one lies in another: the first match
// counts.
var rooms = []room{
	{"cmd/containerd-shim-cloister-v2", []string{"oci", "shim/...", "runtime/...", "sandbox/...", "cmd/internal/..."}},
	{"cmd/cloister-agent", []string{"sandbox/guestapi/...", "sandbox/crun"}},
	{"cmd", []string{"cmd/internal/...", "shim/...", "runtime/...", "sandbox/...", "labels/...", "vmm/...", "oci/..."}},
	{"shim", []string{"runtime/..."}},
	{"runtime", []string{"sandbox/...", "oci/..."}},
	{"sandbox/plan", []string{"oci", "vmm", "vmm/qemu", "labels", "sandbox/cgroup", "sandbox/guestapi"}},
	{"sandbox/content", []string{"oci", "labels", "sandbox/plan", "sandbox/guestapi", "sandbox/watch", "sys"}},
	{"sandbox/statedir", []string{"labels"}},
	{"sandbox/tally", nil},
	{"sandbox/undo", []string{"sandbox/statedir"}},
	{"sandbox/recovery", []string{
		"sandbox/cgroup", "sandbox/confine", "sandbox/crun", "sandbox/network", "sandbox/statedir", "sandbox/tally", "sandbox/undo",
	}},
	{"sandbox/hypervisor", []string{"labels/lsm", "sandbox/cgroup", "sandbox/confine", "sandbox/jail", "vmm", "vmm/qemu", "vmm/virtiofsd"}},
	{"sandbox/containers", []string{
		"labels", "oci", "sandbox/confine", "sandbox/content", "sandbox/guestapi", "sandbox/guestapi/v1",
		"sandbox/hypervisor", "sandbox/network",
		"sandbox/plan", "sandbox/statedir", "sandbox/undo", "sandbox/watch", "vmm", "vmm/qemu",
	}},
	{"sandbox/host", []string{
		"labels/lsm", "oci", "sandbox/cgroup", "sandbox/network", "sandbox/plan", "vmm",
		"vmm/guestimage", "vmm/qemu", "vmm/virtiofsd",
	}},
	{"sandbox/debug", []string{"sandbox/guestapi", "sandbox/statedir"}},
	{"sandbox/guestapi", nil},
	{"sandbox/network", []string{"sandbox/guestapi/v1"}}, // the guest is told in the contract's own values
	{"sandbox/cgroup", nil},
	{"sandbox/jail", nil},
	{"sandbox/confine", []string{"labels/...", "oci"}},
	{"sandbox/hooks", []string{"oci"}},
	{"sandbox/watch", nil},
	{"sandbox/template", nil},
	{"sandbox/background", []string{"sandbox", "sandbox/template"}},
	{"sandbox/config", []string{
		"oci", "sandbox/confine", "sandbox/jail", "sandbox/plan", "sandbox/recovery", "sandbox/template", "sandbox/undo", "vmm",
	}},
	{"sandbox/clone", []string{
		"labels/policy", "oci", "sandbox/cgroup", "sandbox/guestapi", "sandbox/hypervisor", "sandbox/jail",
		"sandbox/plan", "sandbox/template",
		"vmm", "vmm/guestimage", "vmm/qemu",
	}},
	{"sandbox/prove", []string{"oci", "sandbox/confine"}},
	{"sandbox/standin", []string{
		"labels", "labels/apparmor", "labels/lsm", "oci", "sandbox/cgroup", "sandbox/config", "sandbox/confine", "sandbox/crun",
		"sandbox/host", "sandbox/hypervisor", "sandbox/jail", "sandbox/plan", "sandbox/process", "sandbox/prove",
		"sandbox/statedir",
	}},
	{"sandbox/crun", nil},
	{"sandbox/process", []string{
		"labels", "oci", "sandbox/cgroup", "sandbox/confine", "sandbox/content", "sandbox/crun", "sandbox/plan", "sandbox/recovery",
		"sandbox/statedir", "sandbox/tally", "sandbox/undo",
	}},
	{"sandbox", []string{"vmm/...", "labels/...", "oci/..."}},
	{"labels/mcs", []string{"labels", "labels/internal/flock"}},
	{"labels/lsm", []string{"labels"}},
	{"labels/relabel", []string{"labels", "labels/internal/flock", "labels/lsm"}},
	{"labels/policy", []string{"labels"}},
	{"labels/apparmor", []string{"labels", "labels/internal/flock"}},
	{"labels", nil},
	{"vmm/qemu", []string{"vmm", "vmm/internal/..."}},
	{"vmm/virtiofsd", []string{"vmm", "vmm/internal/..."}},
	{"vmm/guestimage", []string{"vmm"}},
	{"vmm", nil},
	{"oci", nil},
	{"sys", nil},
	{"tests", []string{"..."}},
}

// leaf is the package of kernel idioms, which everybody may import.
const leaf = "sys"

func TestImportDirection(t *testing.T) {
	for _, f := range files(t) {
		i := slices.IndexFunc(rooms, func(r room) bool { return within(f.dir(), r.folder) })
		if i < 0 {
			t.Errorf("%s belongs to no room", f.path)
			continue
		}
		for _, name := range f.imports {
			rel, ours := strings.CutPrefix(name, "cloister/")
			if !ours || rel == leaf || within(rel, rooms[i].folder) || (f.isTest() && within(rel, "tests")) {
				continue
			}
			if !slices.ContainsFunc(rooms[i].may, func(pattern string) bool { return matches(pattern, rel) }) {
				t.Errorf("%s imports %s: room %s may import only [%s]", f.path, name, rooms[i].folder, strings.Join(rooms[i].may, " "))
			}
		}
	}
}

// ban is an import that only some folders may have, and the reason.
type ban struct {
	prefix string
	only   []string
	reason string
}

var bans = []ban{
	{"github.com/sirupsen/logrus", nil, "use github.com/containerd/log"},
	{"github.com/pkg/errors", nil, "use errors and fmt.Errorf with %w"},
	{"github.com/stretchr/testify", nil, "use testing and go-cmp"},
	{"github.com/opencontainers/runc", nil, "internal to runc"},
	{"math/rand", nil, "use math/rand/v2, or crypto/rand for ids"},
	{"io/ioutil", nil, "use io and os"},
	{"github.com/containerd/containerd/v2", []string{
		"shim", "cmd/containerd-shim-cloister-v2", "cmd/cloister-agent", "sandbox/process", "sandbox/standin",
		"tests",
	}, "only the shim, class process, its attackers and the agent use containerd itself; its api module is free"},
	{"github.com/digitalocean/go-qemu", []string{"vmm/qemu"}, "QMP sits behind one adapter"},
	{"github.com/opencontainers/selinux", []string{"labels", "cmd/cloister", "tests"}, "labels alone knows the kernel's side"},
	{"github.com/vishvananda/netlink", []string{"sandbox/network", "cmd/cloister-agent", "tests"}, "plumbing lives in sandbox/network"},
	{
		"github.com/opencontainers/runtime-spec",
		[]string{"oci", "runtime", "shim", "sandbox/cgroup", "cmd", "tests"},
		"only oci reads the spec for those below; cgroups v3 takes device rules in its words",
	},
	{"github.com/landlock-lsm/go-landlock", []string{"sandbox/jail", "labels/policy", "tests"}, "one place restricts a process"},
	{"cloister/sys", []string{"cmd", "shim", "runtime", "sandbox", "labels", "vmm", "tests"}, "oci is pure: it calls no kernel"},
	{"github.com/prometheus", []string{"cmd/cloister", "tests/promql"}, "metrics are the command line's: shims leave counts in a file"},
	{
		"github.com/spf13",
		[]string{"cmd/cloister", "cmd/cloister-oci"},
		"only the command lines have verbs: the shim's and the agent's size is every sandbox's memory",
	},
	{"k8s.io", []string{"tests", "shim"}, "CRI is a client's word"},
}

func TestBannedImports(t *testing.T) {
	for _, f := range files(t) {
		for _, name := range f.imports {
			for _, b := range bans {
				if name == "math/rand/v2" || !within(name, b.prefix) {
					continue
				}
				if !slices.ContainsFunc(b.only, func(folder string) bool { return within(f.dir(), folder) }) {
					t.Errorf("%s imports %s: %s", f.path, name, b.reason)
				}
			}
		}
	}
}

// TestPureRooms keeps what a value is made of apart from the machine it is made on.
func TestPureRooms(t *testing.T) {
	impure := []string{"os", "net", "syscall", "time", "context", "golang.org/x/sys"}
	for _, f := range files(t) {
		if f.isTest() || !within(f.dir(), "oci") {
			continue
		}
		for _, name := range f.imports {
			if slices.ContainsFunc(impure, func(prefix string) bool { return within(name, prefix) }) {
				t.Errorf("%s imports %s: oci is pure", f.path, name)
			}
		}
	}
	for _, f := range files(t) {
		if f.isTest() || (!within(f.dir(), "vmm") && !within(f.dir(), "labels")) {
			continue
		}
		for _, name := range f.imports {
			if strings.HasPrefix(name, "github.com/containerd/") && name != "github.com/containerd/errdefs" {
				t.Errorf("%s imports %s: leaf rooms know nothing of containerd", f.path, name)
			}
		}
	}
}

// TestLinuxFiles keeps system calls in files that only Linux compiles.
func TestLinuxFiles(t *testing.T) {
	for _, f := range files(t) {
		if strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(f.path, ".go"), "_test"), "_linux") {
			continue
		}
		if slices.Contains(f.imports, "golang.org/x/sys/unix") && !strings.Contains(string(f.source), "\n//go:build linux\n") {
			t.Errorf("%s imports golang.org/x/sys/unix: name it _linux.go", f.path)
		}
	}
}

// within tells whether name is prefix or lies below it.
func within(name, prefix string) bool {
	return name == prefix || strings.HasPrefix(name, prefix+"/")
}

func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(name, folder)
	}
	return name == pattern
}

func TestMatches(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"...", "vmm/qemu", true},
		{"vmm", "vmm", true},
		{"vmm", "vmm/qemu", false},
		{"vmm/...", "vmm", true},
		{"vmm/...", "vmm/qemu", true},
		{"vmm/...", "vmmx", false},
	}
	for _, tt := range tests {
		if got := matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("matches(%q, %q) = %t, want %t", tt.pattern, tt.name, got, tt.want)
		}
	}
}
