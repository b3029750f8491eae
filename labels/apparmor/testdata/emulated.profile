# SPDX-License-Identifier: Apache-2.0
# One sandbox's profile. cloister loads it before the sandbox starts and removes it after the stop.
abi <abi/3.0>,

profile cloister-c12-c345 {
  # Nothing runs in this profile itself: it is the name that holds the children together.

  # The machine. Disks, logs, taps and sockets come as open descriptors, which keep the rights of the
  # unconfined process that opened them. No capability, no ptrace, no mount, no exec.
  profile qemu {
    network unix,
    unix (create, getattr, setattr, getopt, setopt, send, receive, shutdown) type=stream,
    unix (create, getattr, setattr, getopt, setopt, send, receive, shutdown) type=dgram,
    signal receive peer=unconfined,
    signal (send, receive) peer=cloister-c12-c345//qemu,

    /usr/bin/qemu-system-x86_64 mr,
    /etc/ld.so.cache r,
    /etc/localtime r,
    /{usr/,}lib{32,64,}/** mr,
    /usr/share/{zoneinfo,locale}/** r,
    /usr/share/{AAVMF,OVMF,edk2,ipxe,qemu,qemu-efi,seabios}/** r,
    /usr/share/cloister/guest/small/kernel r,

    /dev/null rw,
    /dev/urandom r,
    owner /proc/[0-9]*/{cmdline,status,maps} r,
    owner /proc/[0-9]*/{comm,task/[0-9]*/comm} rw,
    # The processors are counted in stat where /sys is not in the root directory.
    /proc/{cpuinfo,filesystems,meminfo,stat} r,
    /proc/sys/vm/overcommit_memory r,
    /sys/bus/nd/devices/ r,
    /sys/devices/system/{cpu,node}/ r,
    /sys/devices/system/cpu/{online,possible,present} r,
    /sys/devices/system/node/node[0-9]*/meminfo r,
    /sys/kernel/mm/transparent_hugepage/{enabled,hpage_pmd_size} r,
    /sys/module/kvm{,_amd,_intel}/parameters/* r,
  }

  # The file server. It serves one tree, as any user of its guest, and executes nothing in it.
  profile virtiofsd flags=(mediate_deleted) {
    capability chown,
    capability dac_override,
    capability fowner,
    capability fsetid,
    capability mknod,
    capability setfcap,
    capability setgid,
    capability setpcap,
    capability setuid,
    capability sys_chroot,

    network unix,
    unix (create, getattr, setattr, getopt, setopt, accept, listen, send, receive, shutdown) type=stream,
    unix (create, getattr, setattr, getopt, setopt, send, receive, shutdown) type=dgram,
    signal receive peer=unconfined,
    signal (send, receive) peer=cloister-c12-c345//virtiofsd,

    /usr/lib/qemu/virtiofsd mr,
    /etc/ld.so.cache r,
    /etc/localtime r,
    /{usr/,}lib{32,64,}/** mr,
    /usr/share/{zoneinfo,locale}/** r,
    /dev/null rw,
    /dev/urandom r,
    owner /proc/[0-9]*/{status,fd/,task/[0-9]*/comm,comm} r,
    # The Rust server, before it serves; it ends without the first one.
    owner /proc/[0-9]*/{mountinfo,maps,uid_map,gid_map,setgroups} r,
    /proc/{filesystems,meminfo} r,
    /proc/sys/{fs/file-max,fs/nr_open,kernel/cap_last_cap,vm/overcommit_memory} r,
    /sys/devices/system/{cpu,node}/ r,
    /sys/devices/system/cpu/{online,possible} r,
    /sys/devices/system/node/node[0-9]*/meminfo r,

    /run/cloister/default/web/share/ r,
    /run/cloister/default/web/share/** rwlk,
    # When the guest runs, the tree is the root directory of the server's mount namespace.
    / r,
    /{c,v}/ r,
    /{c,v}/** rwlk,
  }
}
