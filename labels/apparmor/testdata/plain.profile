# SPDX-License-Identifier: Apache-2.0
# The profile of a sandbox of plain containers. It adds to what the OCI runtime sets up: what one
# sandbox may do to another, and to the kernel's files that a container shares with its host.
abi <abi/3.0>,

profile cloister-c12-c345 {
  # Nothing runs in this profile itself: it is the name that holds the children together.

  # Every process of the containers. Names begin at the container's own root, so files are the OCI
  # runtime's and the mounts' to keep apart. There is no rule for mount, pivot_root or another profile.
  profile container flags=(attach_disconnected,mediate_deleted) {
    network,
    unix,
    dbus,
    file,
    umount,

    # The OCI runtime bounds them. These two would change or leave the profile.
    capability,
    deny capability mac_admin,
    deny capability mac_override,

    # From engines and OCI runtimes, some of which have an unconfined profile of their own.
    signal receive peer=unconfined,
    signal receive peer={crun,runc,podman},
    signal (send, receive) peer=cloister-c12-c345//container,
    ptrace peer=cloister-c12-c345//container,

    # The kernel's files of the whole host. A sysctl of the container's own is the OCI runtime's to set.
    deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
    deny /proc/[^0-9]* wkl,
    deny /proc/[^0-9]*/** wkl,
    deny /sys/[^f]** wkl,
    deny /sys/f[^s]** wkl,
    deny /sys/fs/[^c]** wkl,
    deny /sys/fs/c[^g]** wkl,
    deny /sys/devices/virtual/powercap/** rwkl,
    deny /sys/firmware/** rwkl,
    deny /sys/kernel/security/** rwkl,
  }
}
