// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestEachPartSetsItsOwnFields compares the jails of both roles whole: with all parts on, and with
// each part off, which clears its own fields and no other.
func TestEachPartSetsItsOwnFields(t *testing.T) {
	const common = unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	none, serves := NewSet(), NewSet(
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_MKNOD,
	)
	starts := serves | NewSet(unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT)
	qemuCalls, serverCalls := callsOfQEMU(), callsOfVirtiofsd()
	owner, files, tree := Owner{ID: leastBase}, Files{Tree: "/files"}, Tree{Read: []string{"/tree"}}
	for _, role := range []struct {
		name string
		jail func(Config) Jail
		all  Jail
	}{
		{"QEMU", func(c Config) Jail { return ForQEMU(c, owner) }, Jail{
			Owner: owner, Bounding: &none, NoNewPrivs: true, Calls: &qemuCalls, Limits: Limits{NoLocked: true},
			Isolate: common, Files: &files, Tree: &tree,
		}},
		{"virtiofsd", ForVirtiofsd, Jail{
			Bounding: &starts, Kept: &serves, KeepCapabilities: true, NoNewPrivs: true, Calls: &serverCalls,
			Limits: Limits{NoLocked: true}, Isolate: common | unix.CLONE_NEWNET, Files: &files, Tree: &tree,
		}},
	} {
		compare := func(what string, c Config, want Jail) {
			got := role.jail(c).MayOpen(c, files).SeesOnly(c, tree)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Calls{}, condition{})); diff != "" {
				t.Errorf("%s, %s: jail (-want +got):\n%s", role.name, what, diff)
			}
		}
		compare("all parts", Config{}, role.all)
		for _, part := range Parts() {
			less := role.all
			switch part {
			case Users, Devices: // the sandbox's: owner and cgroup are given
			case Capabilities:
				less.Bounding, less.Kept = nil, nil
			case NoNewPrivs:
				less.NoNewPrivs = false
			case Seccomp:
				less.Calls = nil
			case Landlock:
				less.Files = nil
			case Namespaces:
				less.Isolate = 0
			case RootDir:
				less.Tree = nil
			case RLimits:
				less.Limits = Limits{}
			}
			compare("without "+string(part), Config{Disable: []Part{part}}, less)
		}
		logged := role.all
		calls := *logged.Calls
		calls.Log, logged.Calls = true, &calls
		compare("calls logged", Config{Seccomp: "log"}, logged)
	}
}
