// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/debug"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/jail"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sandbox/recovery"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
	"cloister/vmm/virtiofsd"
)

// planned is what later steps of a start need of earlier ones, and what is only
// needed until the machine runs.
type planned struct {
	machine vmm.Machine
	clock   qemu.TSC
	taps    []*os.File
	opened  []*os.File
}

func (p *planned) close() {
	for _, f := range p.opened {
		_ = f.Close()
	}
}

// plan decides everything that can be decided without an effect.
func (s *Sandbox) plan(ctx context.Context, p *planned) error {
	p.clock = qemu.NewTSC()
	var err error
	if s.first, err = s.arrive(Container{ID: s.request.ID, Bundle: s.request.Bundle, Workload: s.request.Workload, Rootfs: s.request.Rootfs}); err != nil {
		return err
	}
	image, err := verifiedImage(s.config)
	if err != nil {
		return err
	}
	accel, warning, err := qemu.DetectAccel(s.config.Machine.Accel, qemu.Host{})
	if err != nil {
		return err
	}
	if warning != "" {
		log.G(ctx).WithField("sandbox", s.request.ID).Warn(warning)
	}
	if err := s.config.Jail.Check(); err != nil {
		return err
	}
	if s.programs, err = programs(s.config.Machine); err != nil {
		return err
	}
	if s.confine, err = confine.Open(s.confinement(accel)); err != nil {
		return err
	}
	sizing, err := s.sizing()
	if err != nil {
		return err
	}
	if s.size, err = s.request.Workload.Size(sizing); err != nil {
		return err
	}
	host := plan.Host{
		Accel: accel, Kernel: image.Kernel(), Initrd: image.Initrd(), Small: image.Manifest.Flavour == guestimage.Small, Cmdline: slices.Concat(image.Manifest.Cmdline, plan.Users(s.request.Workload.Namespaces.IDs).Parameters()),
		HugePages: s.config.Machine.HugePages, NestedVirtualization: s.config.Machine.NestedVirtualization, PerformanceCounters: s.config.Machine.PerformanceCounters,
	}
	wish := cmp.Or(vmm.MachineType(s.request.Workload.Settings.Machine), s.config.Machine.Type)
	addresses, err := randomAddresses(s.config.Machine.NICs)
	if err != nil {
		return err
	}
	p.machine, err = plan.Machine(s.request.ID, host, wish, s.size, plan.NICs(addresses))
	if err != nil {
		return err
	}
	s.facts = map[string]string{
		"machine": string(p.machine.Type), "accel": string(accel), "kernel": image.Manifest.Kernel.Version, "image": image.Dir, "inputs": image.Manifest.Inputs,
		"memory_mib": strconv.Itoa(s.size.MemoryMiB), "cpus": strconv.Itoa(s.size.CPUs),
	}
	return nil
}

// promise makes the sandbox's folder and its record, which is there before the
// first effect. What a dead owner left under the same name is taken back first.
func (s *Sandbox) promise(ctx context.Context) (err error) {
	if s.dir, err = statedir.New(s.config.State, s.request.Namespace, s.request.ID); err != nil {
		return err
	}
	if err := s.config.Recovery().Collect(ctx, s.dir); err != nil {
		return err
	}
	if s.journal, err = statedir.Create(s.dir, s.request.Bundle); err != nil {
		return err
	}
	s.undo.Push("folder", func(context.Context) error {
		return errors.Join(s.journal.Close(), recovery.RemoveFolder(s.dir))
	})
	return nil
}

// prepare opens the sandbox's cgroup, network namespace and taps.
func (s *Sandbox) prepare(p *planned) error {
	if err := s.makeShare(); err != nil {
		return err
	}
	if err := s.enterCgroup(p.machine); err != nil {
		return err
	}
	ns, err := network.Open(s.request.Workload.Namespaces.Network.Path)
	if err != nil {
		return err
	}
	s.netns = ns
	s.undo.Push("network namespace", func(context.Context) error { return ns.Close() })
	if err := s.claimNetwork(); err != nil {
		return err
	}
	for _, nic := range p.machine.NICs {
		tap, err := ns.NewTap(nic.MAC)
		if err != nil {
			return err
		}
		p.taps = append(p.taps, tap)
		p.opened = append(p.opened, tap)
	}
	return ns.Check()
}

// makeShare makes the sandbox's own file system and the tree that the file server will show.
func (s *Sandbox) makeShare() error {
	own := func(k confine.Kind) func(*os.File) error {
		return func(f *os.File) error { return s.confine.Admit(context.Background(), confine.File{Kind: k, Host: f}) }
	}
	dir, err := os.OpenFile(s.dir.String(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close() // O_PATH
	if err := own(confine.State)(dir); err != nil {
		return err
	}
	for _, folder := range []string{s.dir.Own(), s.dir.Share()} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
	}
	share, err := content.NewShare(s.dir.Own(), s.dir.Share(), own(confine.State), own(confine.Share))
	if err != nil {
		return err
	}
	s.share, s.volumes = share, content.NewVolumes(share)
	s.undo.Push("share", func(ctx context.Context) error { return errors.Join(s.removeRest(ctx), share.Close()) })
	return nil
}

// randomAddresses are what tells n network cards apart.
func randomAddresses(n int) ([][4]byte, error) {
	out := make([][4]byte, n)
	for i := range out {
		if _, err := rand.Read(out[i][:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// run starts a helper, whose pid is promised by its mark.
func (s *Sandbox) run(program string, start func() (pid int, err error), stop func(context.Context) error) error {
	e := statedir.Effect{Kind: statedir.KindProcess, Path: program, Detail: s.dir.Marker()}
	return s.do(e, func(e *statedir.Effect) error {
		pid, err := start()
		if err != nil {
			return err
		}
		e.Process, err = sys.ProcessOf(pid)
		return err
	}, stop)
}

func (s *Sandbox) serveFiles(ctx context.Context, p *planned) error {
	log, err := s.openLog(statedir.VirtiofsdLog)
	if err != nil {
		return err
	}
	p.opened = append(p.opened, log)
	return s.run("virtiofsd", func() (int, error) {
		s.files, err = virtiofsd.Start(ctx, virtiofsd.Config{
			Binary: s.programs.Virtiofsd, Source: s.dir.Share(), Starter: s.jailOf(confine.FileServer),
			Sockets: s.confine.Sockets, Log: log, Dir: s.dir.String(),
		})
		if err != nil {
			return 0, err
		}
		return s.files.Pid(), nil
	}, func(context.Context) error {
		if s.files == nil {
			return nil
		}
		return s.files.Stop()
	})
}

func (s *Sandbox) launch(ctx context.Context, p *planned) error {
	log, err := s.openLog(statedir.QEMULog)
	if err != nil {
		return err
	}
	p.opened = append(p.opened, log)
	console, err := s.openLog(statedir.Console)
	if err != nil {
		return err
	}
	p.opened = append(p.opened, console)
	if s.root, err = jail.NewRoot(); err != nil {
		return err
	}
	starter := s.jailOf(confine.Machine)
	starter.Root = s.root
	p.machine.Cmdline = append(p.machine.Cmdline, p.clock.Cmdline(ctx, p.machine.Accel)...)
	return s.run("qemu", func() (int, error) {
		s.machine, err = qemu.Start(ctx, p.machine, qemu.Options{
			Binary: s.programs.QEMU, Starter: starter, Sockets: s.confine.Sockets, Dir: s.dir.String(),
			Log: log, Console: console, Share: s.files.Socket(), Taps: p.taps,
		})
		if err != nil {
			return 0, err
		}
		return s.machine.Pid(), nil
	}, func(ctx context.Context) error {
		if s.machine == nil {
			return s.root.Close() // no process has it
		}
		return s.machine.Stop(ctx)
	})
}

// verify reads back what the kernel says of the processes, and lets the guest run.
func (s *Sandbox) verify(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	if err := s.leaveHost(ctx); err != nil {
		return err
	}
	return s.machine.Continue(ctx)
}

// greet waits for the agent's hello.
func (s *Sandbox) greet(ctx context.Context) error {
	ctx, cancel := s.patience(ctx, "the guest's agent said nothing")
	defer cancel()
	guest, hello, err := guestapi.NewClient(ctx, s.machine.Agent(), s.connection())
	if err != nil {
		return s.silent(err)
	}
	s.guest = guest
	s.facts["agent"] = hello.AgentVersion
	s.facts["guest_used_mib"] = strconv.FormatUint(hello.MemUsedKiB>>10, 10)
	s.undo.Push("guest connection", func(context.Context) error { return guest.Close() })
	return nil
}

// endLimit is how long a machine may take to end once its channel has.
const endLimit = 10 * time.Second

// silent explains why no hello came. A machine that has ended says it itself: who reads of its end on the channel may be
// earlier than who waits for the process.
func (s *Sandbox) silent(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		select {
		case <-s.machine.Done():
		case <-time.After(endLimit):
		}
	}
	select {
	case <-s.machine.Done():
		return errors.Join(err, s.OutOfMemory(), s.machine.Err())
	default:
		return fmt.Errorf("%w\nconsole: %s", err, s.machine.ConsoleTail())
	}
}

// configure makes the guest this sandbox's.
func (s *Sandbox) configure(ctx context.Context) error {
	entropy := make([]byte, 256)
	if _, err := rand.Read(entropy); err != nil {
		return err
	}
	wanted, left, err := s.netns.Sync()
	if err := errors.Join(append(left, err)...); err != nil {
		return err
	}
	s.told = wanted
	hostname, err := os.Hostname() // what a container has whose configuration names none, as with runc
	if err != nil {
		return err
	}
	call, cancel := s.patience(ctx, "the guest's agent said hello, and no more")
	defer cancel()
	_, err = s.guest.Guest().Configure(call, &guestv1.ConfigureRequest{
		Network:      wanted,
		Hostname:     cmp.Or(s.request.Workload.Hostname, hostname),
		TimeUnixNano: time.Now().UnixNano(),
		Entropy:      entropy,
		Sysctls:      sysctls(s.request.Workload.Sysctls),
		ShareTag:     plan.ShareTag,
		ShareInodes:  s.files.OpenFiles(),
	})
	if cause := context.Cause(call); err != nil && cause != nil && ctx.Err() == nil {
		return s.silent(cause)
	}
	if err != nil {
		return s.Explain(err)
	}
	s.followFiles(ctx)
	s.forward(ctx)
	if s.config.Debug.Shell != "" {
		server, err := debug.Serve(ctx, s.dir, s.guest)
		if err != nil {
			return err
		}
		s.undo.Push("debug", func(context.Context) error { return server.Close() })
	}
	return s.follow(ctx)
}

// openLog makes a log in the sandbox's own file system, which a guest's messages cannot outgrow.
func (s *Sandbox) openLog(name string) (*os.File, error) {
	f, err := s.share.Create(name)
	if err != nil {
		return nil, err
	}
	if err := s.confine.Admit(context.Background(), confine.File{Kind: confine.State, Host: f}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// verifiedImage opens the guest image and checks that it is root's and undamaged.
func verifiedImage(c Config) (*guestimage.Image, error) {
	image, err := openImage(c.Guest.Image)
	if err != nil {
		return nil, err
	}
	return image, image.VerifyOnce(filepath.Join(c.Root, "verified.json"))
}

// openImage opens the configured guest image, or the installed one.
func openImage(dir string) (*guestimage.Image, error) {
	if dir != "" {
		return guestimage.Open(dir)
	}
	const installed = "/usr/share/cloister/guest"
	image, err := guestimage.Open(filepath.Join(installed, string(guestimage.Small)))
	if errors.Is(err, fs.ErrNotExist) {
		return guestimage.Open(filepath.Join(installed, string(guestimage.Distro)))
	}
	return image, err
}

// sysctls are those that are the guest's as a whole.
func sysctls(s oci.Sysctls) map[string]string {
	all := map[string]string{"net.ipv4.ip_local_port_range": network.GuestPorts()}
	maps.Copy(all, s.Network)
	maps.Copy(all, s.Kernel)
	return all
}
