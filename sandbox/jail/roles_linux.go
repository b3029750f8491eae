// SPDX-License-Identifier: Apache-2.0

package jail

import "golang.org/x/sys/unix"

// ForQEMU is the jail of a machine's process, which has the owner's rights on the host and no
// capability: everything that needs more comes to it as an open descriptor. The caller adds what is
// the sandbox's: label, network namespace, cgroup, root and files.
func ForQEMU(c Config, o Owner) Jail {
	j := c.of(NewSet(), callsOfQEMU())
	j.Owner = o
	return j
}

// capability is one of linux/capability.h with its name, without CAP_.
type capability struct {
	name  string
	value int
}

// serving are the capabilities of a file server that serves. It does for its guest what the users
// of the guest may do, root among them: chown files, use those of others (DAC_OVERRIDE, FOWNER),
// keep their set-uid and set-gid bits (FSETID), make files as another user (SETUID, SETGID), set
// file capabilities (SETFCAP) and make device nodes (MKNOD), which nobody opens on its mounts.
func serving() []capability {
	return []capability{
		{"CHOWN", unix.CAP_CHOWN},
		{"DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE},
		{"FOWNER", unix.CAP_FOWNER},
		{"FSETID", unix.CAP_FSETID},
		{"SETGID", unix.CAP_SETGID},
		{"SETUID", unix.CAP_SETUID},
		{"SETFCAP", unix.CAP_SETFCAP},
		{"MKNOD", unix.CAP_MKNOD},
	}
}

// KeptByVirtiofsd names the capabilities that a file server keeps in the host's user namespace, for
// people.
func KeptByVirtiofsd() []string {
	var names []string
	for _, c := range serving() {
		names = append(names, c.name)
	}
	return names
}

// ForVirtiofsd is the jail of a file server. Both servers bound their own capabilities before they
// serve (SETPCAP), and the C server changes its root (SYS_CHROOT): they have given these up when
// the jail is read back. A server that becomes one of its guest's users keeps its capabilities,
// without the groups that may have let that user: the guest's kernel has checked that. It has no
// Owner: it acts for all users of its guest, with root's id.
func ForVirtiofsd(c Config) Jail {
	var serves Set
	for _, c := range serving() {
		serves |= NewSet(c.value)
	}
	j := c.of(serves|NewSet(unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT), callsOfVirtiofsd())
	j.KeepCapabilities = true
	if c.Has(Capabilities) {
		j.Kept = &serves
	}
	if c.Has(Namespaces) {
		j.Isolate |= unix.CLONE_NEWNET // it has its one connection
	}
	return j
}

// of is what both roles have, as the configuration leaves it.
func (c Config) of(bounding Set, calls Calls) Jail {
	j := Jail{NoNewPrivs: c.Has(NoNewPrivs)}
	if c.Has(Capabilities) {
		j.Bounding = &bounding
	}
	if c.Has(Seccomp) {
		calls.Log = c.Seccomp == "log"
		j.Calls = &calls
	}
	if c.Has(RLimits) {
		j.Limits.NoLocked = true
	}
	if c.Has(Namespaces) {
		j.Isolate = unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	}
	return j
}
