// SPDX-License-Identifier: Apache-2.0

package jail

import "golang.org/x/sys/unix"

// ForQEMU is the jail of a machine's process, which has the owner's rights on the host and no
// capability: everything that needs more comes to it as an open descriptor.
func ForQEMU(c Config, o Owner) Jail {
	j := c.of(NewSet(), callsOfQEMU())
	j.Owner = o
	return j
}

// ForVirtiofsd is the jail of a file server. It acts for all users of its guest, and changes
// its root and its limits once. When it becomes one of those users it keeps its capabilities,
// without the groups that may have let that user: the guest's kernel has checked that.
func ForVirtiofsd(c Config) Jail {
	j := c.of(NewSet(
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETGID, unix.CAP_SETUID,
		unix.CAP_SETFCAP, unix.CAP_MKNOD, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP, unix.CAP_SYS_RESOURCE,
	), callsOfVirtiofsd())
	j.KeepCapabilities = true
	return j
}

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
		j.Isolate = unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	return j
}
