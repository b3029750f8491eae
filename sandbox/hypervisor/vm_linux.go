// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/labels/lsm"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/qemu"
	"cloister/vmm/virtiofsd"
)

// Config says what the processes are started in. Everything in it stays the caller's.
type Config struct {
	Programs lsm.Programs
	Driver   confine.Driver
	Identity confine.Identity // that the driver has reserved
	Jail     jail.Config
	Owner    jail.Owner    // whose QEMU is
	Network  *os.File      // network namespace
	Group    *cgroup.Group // of both processes
	OOMScore int           // least oom_score_adj
	Marker   string        // NAME=VALUE in the environment, by which the processes are found after a crash
	Dir      string        // the sandbox's state folder
	Boot     time.Duration // how long the guest may take to say hello
}

// VM is the two processes. A process that has not been started is nil, as the file server of a
// machine without a share is always. Its fields are set by the
// start methods, in the order that the package's comment gives, and do not change later but for
// root.
type VM struct {
	Files   *virtiofsd.Process
	Machine *qemu.Process

	config Config
	guest  Guest // nil until Greeted
	end    ending
	jails  map[confine.Role]jail.Jail // of the processes that were started
	root   *jail.Root                 // QEMU's; nil if the host's root cannot be replaced
	served *os.File                   // what the file server shows, as its mount namespace has it

	fileBytes uint64 // the largest file that QEMU starts with
}

// New makes a VM without processes.
func New(c Config) *VM {
	return &VM{config: c, end: ending{done: make(chan struct{})}, jails: map[confine.Role]jail.Jail{}}
}

// jailOf is the jail of one process: its role's, in the sandbox's network namespace and cgroup.
func (v *VM) jailOf(r confine.Role) jail.Jail {
	c := v.config
	j := jail.ForVirtiofsd(c.Jail) // without a file size limit: it writes its guest's files
	if r == confine.Machine {
		j = jail.ForQEMU(c.Jail, c.Owner)
		if c.Jail.Has(jail.RLimits) {
			j.Limits.FileBytes = v.fileBytes
		}
	}
	if j.Isolate&unix.CLONE_NEWNET == 0 {
		j.Network = c.Network
	}
	j.Label = func() (unset func(), err error) { return c.Driver.Exec(r) }
	j.Group, j.OOMScore, j.Env = c.Group, c.OOMScore, []string{c.Marker}
	return j
}

// house gives a process's jail namespaces of its own. follow says whether later mounts of this
// process's appear there. The jail closes them with the process; see leave for one that does not
// start. PIDs come with Namespaces; the mount namespace is there always, since the root is replaced
// in it.
func (v *VM) house(j *jail.Jail, follow bool) (err error) {
	if j.Root, err = jail.NewRoot(follow); err != nil {
		return err
	}
	if v.config.Jail.Has(jail.Namespaces) {
		j.PIDs, err = jail.NewPIDs(j.Env)
	}
	return err
}

// leave closes the namespaces of a process that has not started. It may be called of a jail without
// any.
func leave(j jail.Jail) error { return errors.Join(j.Root.Close(), j.PIDs.Close()) }

// Reachable refuses files that QEMU opens by name and that its user may not open. Without it QEMU
// would end with a message of its own loader. All errors come together.
func Reachable(owner jail.Owner, program string, m vmm.Machine) error {
	errs := []error{owner.MayOpen(program, unix.X_OK), owner.MayOpen(m.Kernel, unix.R_OK)}
	if m.Initrd != "" {
		errs = append(errs, owner.MayOpen(m.Initrd, unix.R_OK))
	}
	if m.Accel == vmm.AccelKVM {
		errs = append(errs, owner.MayOpen("/dev/kvm", unix.R_OK|unix.W_OK))
	}
	return errors.Join(errs...)
}

// Serve starts the file server, which serves the folder source, and returns its pid. The path must
// be root's alone; the server gets a descriptor of it. The process serves nobody until QEMU
// connects.
func (v *VM) Serve(ctx context.Context, source string, log *os.File) (pid int, err error) {
	j := v.jailOf(confine.FileServer).MayOpen(v.config.Jail, jail.Files{Tree: source})
	defer func() {
		if err != nil {
			err = errors.Join(err, leave(j))
		}
	}()
	if v.config.Jail.Has(jail.Namespaces) {
		if err := v.house(&j, true); err != nil {
			return 0, err
		}
		// As the server's own namespace has it: a descriptor of the shim's mount would show mounts
		// of the shim's namespace.
		v.served, err = j.Root.Folder(source)
	} else {
		v.served, err = sys.OpenNoLinks(source, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return 0, fmt.Errorf("share: %w", err)
	}
	v.jails[confine.FileServer] = j
	v.Files, err = virtiofsd.Start(ctx, virtiofsd.Config{
		Binary: v.config.Programs.Virtiofsd, Source: v.served, Starter: j,
		Sockets: v.config.Driver.Sockets, Log: log, Dir: v.config.Dir,
	})
	if err != nil {
		return 0, err
	}
	return v.Files.Pid(), nil
}

// Served is the mount namespace of the file server and the folder that it serves, there. The folder
// is the caller's to close; the namespace is nil if it is this process's. Nil before Serve.
func (v *VM) Served() (ns *jail.Root, top *os.File) {
	return v.jails[confine.FileServer].Root, v.served
}

// ShareInodes is how many files of the share the guest may know; 0 without a share.
func (v *VM) ShareInodes() uint64 {
	if v.Files == nil {
		return 0
	}
	return v.Files.OpenFiles()
}

// StopFiles ends the file server, if it was started. It is an undo step, and so may be called when
// nothing was started.
func (v *VM) StopFiles() error {
	if v.Files == nil {
		return nil
	}
	return v.Files.Stop()
}

// Logs are the files that get QEMU's messages and the guest's console.
type Logs struct{ QEMU, Console *os.File }

// filesOf are the files that QEMU opens by name. Disks are not among them: they come as
// descriptors.
func filesOf(m vmm.Machine) jail.Files {
	f := jail.Files{Read: []string{m.Kernel}}
	if m.Initrd != "" {
		f.Read = append(f.Read, m.Initrd)
	}
	if m.Accel == vmm.AccelKVM {
		f.Devices = []string{"/dev/kvm"}
	}
	return f
}

// RootOf is what a QEMU finds below its root directory until the guest runs, beside its program and
// libraries. It looks for firmware in /usr/share and beside its program, whose path program is.
func RootOf(program string, m vmm.Machine) jail.Tree {
	f := filesOf(m)
	return jail.Tree{Read: f.Read, Optional: firmware(program), Devices: f.Devices}
}

// firmware are the folders that may have the firmware of the QEMU whose path program is.
func firmware(program string) (folders []string) {
	shares := []string{"/usr/share", filepath.Join(filepath.Dir(program), "..", "share")}
	for _, share := range slices.Compact(shares) {
		for _, name := range []string{
			"qemu", "qemu-kvm", "qemu-firmware", "seabios", "seavgabios", "sgabios", "qboot", "ipxe", "edk2", "OVMF",
		} {
			folders = append(folders, filepath.Join(share, name))
		}
	}
	return folders
}

// TrustedFirmware is an error when somebody other than root could give QEMU its firmware, or have
// it find another folder of the host there. A sandbox with that program does not start then. The
// path program has no links.
func TrustedFirmware(program string) error {
	for _, name := range firmware(program) {
		if err := sys.Trusted(name); err != nil {
			return fmt.Errorf("QEMU's firmware: %w", err)
		}
	}
	return nil
}

// Launch starts QEMU, whose guest does not run yet, and returns its pid. memory is nil but with a
// template. memory and taps stay the caller's and may be closed when it returns. QEMU has answered
// on its monitor by then, and its CPUs are stopped (-S).
func (v *VM) Launch(ctx context.Context, m vmm.Machine, logs Logs, memory *os.File, taps []*os.File) (pid int, err error) {
	// The guest's memory is a file, too. Nothing that QEMU writes is larger, until a disk is added.
	v.fileBytes = uint64(m.MemoryMiB) << 20
	if memory != nil {
		kind := confine.Memory
		if m.CopyOnWrite {
			kind = confine.Template
		}
		if err := v.config.Driver.Admit(ctx, confine.File{Kind: kind, Host: memory}); err != nil {
			return 0, fmt.Errorf("memory: %w", err)
		}
	}
	if err := TrustedFirmware(v.config.Programs.QEMU); err != nil {
		return 0, err
	}
	tree := RootOf(v.config.Programs.QEMU, m)
	if tree.Label, err = v.config.Identity.Folders(); err != nil {
		return 0, err
	}
	j := v.jailOf(confine.Machine).MayOpen(v.config.Jail, filesOf(m)).SeesOnly(v.config.Jail, tree)
	defer func() {
		if err != nil {
			err = errors.Join(err, leave(j))
		}
	}()
	// QEMU's namespace follows no mounts: it opens nothing by name any more.
	if err := v.house(&j, false); err != nil {
		return 0, err
	}
	v.root, v.jails[confine.Machine] = j.Root, j
	o := qemu.Options{
		Binary: v.config.Programs.QEMU, Starter: j, Sockets: v.config.Driver.Sockets, Dir: v.config.Dir,
		Log: logs.QEMU, Console: logs.Console, Memory: memory, Taps: taps,
	}
	if v.Files != nil {
		o.Share = v.Files.Socket()
	}
	v.Machine, err = qemu.Start(ctx, m, o)
	if err != nil {
		return 0, err
	}
	return v.Machine.Pid(), nil
}

// AddDisk gives the running machine a disk, whose file stays the caller's. The limit of file sizes
// is raised first: a write beyond it would end QEMU with SIGXFSZ.
func (v *VM) AddDisk(ctx context.Context, d vmm.Disk, f *os.File) error {
	if v.config.Jail.Has(jail.RLimits) && !d.ReadOnly {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		// A block device cannot grow.
		if info.Mode().IsRegular() && info.Size() > int64(v.fileBytes) {
			if err := jail.AllowFile(v.Machine.Pid(), uint64(info.Size())); err != nil {
				return err
			}
		}
	}
	return v.Machine.AddDisk(ctx, d, f)
}

// Stop ends QEMU, if it was started. It asks by the monitor first and then kills.
func (v *VM) Stop(ctx context.Context) error {
	if v.Machine == nil {
		return nil
	}
	return v.Machine.Stop(ctx)
}

// processes are those that were started.
func (v *VM) processes() []confine.Process {
	p := v.config.Programs
	started := []confine.Process{{Role: confine.Machine, PID: v.Machine.Pid(), Program: p.QEMU}}
	if v.Files != nil {
		started = append(started, confine.Process{Role: confine.FileServer, PID: v.Files.Pid(), Program: p.Virtiofsd})
	}
	return started
}

// Verify reads back from the kernel how the processes run: driver and jail. The guest has not run.
// An error means that the sandbox must not start; the caller's undo ends both processes. Labels are
// the driver's, the rest the jail's.
func (v *VM) Verify(ctx context.Context) error {
	started := v.processes()
	// The driver reads the label of the other ends (SO_PEERSEC): a socket must not lead to another
	// process than the one that was started.
	started[0].Peers = v.Machine.Sockets()
	if v.Files != nil {
		started[1].Peers = []syscall.Conn{v.Files.Socket()}
	}
	if err := v.config.Driver.Verify(ctx, started...); err != nil {
		return err
	}
	for _, p := range started {
		if err := v.jails[p.Role].Verify(p.PID); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
	}
	if v.Files != nil {
		v.Files.HandedOver() // its socket has been read back; only QEMU needs it from now on
	}
	return nil
}

// OutOfMemory is an error if the host killed QEMU or the file server because their cgroup, or one
// above it, was out of memory. The count is of this cgroup since it was made; a kill for the lack
// of memory above it counts there as well.
func (v *VM) OutOfMemory() error {
	if n, _ := v.config.Group.OOMKills(); n == 0 { // also when the cgroup is gone
		return nil
	}
	return fmt.Errorf("the host was out of memory in the machine's cgroup %s, or above it, and killed the machine: give the "+
		"pod a higher limit, or its runtime class a larger overhead: %w",
		v.config.Group, errdefs.ErrResourceExhausted)
}

// DiskIO is what the processes have read from and written to disks of the host. The guest does not
// count it: its files come from the file server.
func (v *VM) DiskIO() ([]cgroup.DiskIO, error) { return v.config.Group.DiskIO() }
