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

	"cloister/labels/lsm"
	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/containers"
	"cloister/sandbox/content"
	"cloister/sandbox/debug"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sandbox/recovery"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

// starting is what a start hands from step to step, and lets go of at its end.
type starting struct {
	machine  vmm.Machine
	clock    qemu.TSC
	programs lsm.Programs
	owner    jail.Owner // whose QEMU is; its id follows from the identity
	first    *containers.Planned
	group    *cgroup.Group
	taps     []*os.File
	opened   []*os.File
}

func (p *starting) close() {
	for _, f := range p.opened {
		_ = f.Close()
	}
}

// planner plans containers as the configuration says.
func (s *Sandbox) planner() containers.Planner {
	return containers.Planner{Workloads: s.config.Workloads, Labels: rules(s.config.Labels)}
}

// plan decides everything that can be decided without an effect.
func (s *Sandbox) plan(ctx context.Context, p *starting) error {
	p.clock = qemu.NewTSC()
	var err error
	if p.first, err = s.planner().Plan(Container{ID: s.request.ID, Bundle: s.request.Bundle, Workload: s.request.Workload, Rootfs: s.request.Rootfs}); err != nil {
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
	if p.programs, err = programs(s.config.Machine); err != nil {
		return err
	}
	if s.confine, err = confine.Open(s.confinement(accel, p.programs)); err != nil {
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
	for name, value := range map[string]string{
		"machine": string(p.machine.Type), "accel": string(accel), "kernel": image.Manifest.Kernel.Version, "image": image.Dir, "inputs": image.Manifest.Inputs,
		"memory_mib": strconv.Itoa(s.size.MemoryMiB), "cpus": strconv.Itoa(s.size.CPUs),
	} {
		s.notes.set(name, value)
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
func (s *Sandbox) prepare(_ context.Context, p *starting) (err error) {
	if err := s.makeShare(); err != nil {
		return err
	}
	if p.group, err = s.enterCgroup(p.machine); err != nil {
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
	s.vm = hypervisor.New(hypervisor.Config{
		Programs: p.programs, Driver: s.confine, Jail: s.config.Jail, Owner: p.owner, Network: ns.File(), Group: p.group,
		OOMScore: s.request.Workload.OOMScore(), Marker: s.dir.Marker(), Dir: s.dir.String(), Boot: s.config.Timeouts.Boot.Duration,
	})
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
	s.share = share
	s.undo.Push("share", func(ctx context.Context) error { return errors.Join(s.containers.Close(ctx), share.Close()) })
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

func (s *Sandbox) serveFiles(ctx context.Context, p *starting) error {
	log, err := s.openLog(statedir.VirtiofsdLog)
	if err != nil {
		return err
	}
	p.opened = append(p.opened, log)
	return s.run("virtiofsd", func() (int, error) { return s.vm.Serve(ctx, s.dir.Share(), log) },
		func(context.Context) error { return s.vm.StopFiles() })
}

func (s *Sandbox) launch(ctx context.Context, p *starting) (err error) {
	var logs hypervisor.Logs
	if logs.QEMU, err = s.openLog(statedir.QEMULog); err != nil {
		return err
	}
	p.opened = append(p.opened, logs.QEMU)
	if logs.Console, err = s.openLog(statedir.Console); err != nil {
		return err
	}
	p.opened = append(p.opened, logs.Console)
	p.machine.Cmdline = append(p.machine.Cmdline, p.clock.Cmdline(ctx, p.machine.Accel)...)
	return s.run("qemu", func() (int, error) { return s.vm.Launch(ctx, p.machine, logs, p.taps) }, s.vm.Stop)
}

// verify reads back what the kernel says of the processes, and lets the guest run.
func (s *Sandbox) verify(ctx context.Context) error {
	if err := s.vm.Verify(ctx); err != nil {
		return err
	}
	s.notes.set("jail", s.config.Jail.String())
	empty, err := s.share.Empty()
	if err != nil {
		return err
	}
	defer empty.Close() // O_PATH
	if err := s.vm.LeaveHost(ctx, empty); err != nil {
		return err
	}
	return s.vm.Machine.Continue(ctx)
}

// greet waits for the agent's hello.
func (s *Sandbox) greet(ctx context.Context, p *starting) error {
	ctx, cancel := s.vm.Patience(ctx, "the guest's agent said nothing")
	defer cancel()
	guest, hello, err := guestapi.NewClient(ctx, s.vm.Machine.Agent(), s.connection())
	if err != nil {
		return s.silent(err)
	}
	s.guest = guest
	s.notes.set("agent", hello.AgentVersion)
	s.notes.set("guest_used_mib", strconv.FormatUint(hello.MemUsedKiB>>10, 10))
	s.undo.Push("guest connection", func(context.Context) error { return guest.Close() })
	s.containers = containers.New(containers.Config{
		ID: s.request.ID, Workload: s.request.Workload, Memory: s.size.ContainerMemory, Planner: s.planner(),
		Driver: s.confine, Rootfs: s.identity.Files, Share: s.share, VM: s.vm, Guest: guest, Done: s.end.done, Explain: s.Explain,
		AskName: func(ctx context.Context, q guestapi.Question) []byte { return s.netns.AskName(ctx, q.TCP, q.Data) },
		Trace:   s.config.Trace, Phase: s.Phase,
	}, p.first)
	return nil
}

// endLimit is how long a machine may take to end once its channel has.
const endLimit = 10 * time.Second

// silent explains why no hello came. A machine that has ended says it itself: who reads of its end on the channel may be
// earlier than who waits for the process.
func (s *Sandbox) silent(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		select {
		case <-s.vm.Machine.Done():
		case <-time.After(endLimit):
		}
	}
	select {
	case <-s.vm.Machine.Done():
		return errors.Join(err, s.vm.OutOfMemory(), s.vm.Machine.Err())
	default:
		return fmt.Errorf("%w\nconsole: %s", err, s.vm.Machine.ConsoleTail())
	}
}

// configure makes the guest this sandbox's.
func (s *Sandbox) configure(ctx context.Context) error {
	entropy := make([]byte, 256)
	if _, err := rand.Read(entropy); err != nil {
		return err
	}
	links, wanted, err := network.NewSession(s.netns, func(ctx context.Context, n *guestv1.Network) error {
		_, err := s.guest.Guest().ApplyNetwork(ctx, n)
		return s.Explain(err)
	})
	if err != nil {
		return err
	}
	s.links = links
	hostname, err := os.Hostname() // what a container has whose configuration names none, as with runc
	if err != nil {
		return err
	}
	call, cancel := s.vm.Patience(ctx, "the guest's agent said hello, and no more")
	defer cancel()
	_, err = s.guest.Guest().Configure(call, &guestv1.ConfigureRequest{
		Network:      wanted,
		Hostname:     cmp.Or(s.request.Workload.Hostname, hostname),
		TimeUnixNano: time.Now().UnixNano(),
		Entropy:      entropy,
		Sysctls:      sysctls(s.request.Workload.Sysctls),
		ShareTag:     plan.ShareTag,
		ShareInodes:  s.vm.Files.OpenFiles(),
	})
	if cause := context.Cause(call); err != nil && cause != nil && ctx.Err() == nil {
		return s.silent(cause)
	}
	if err != nil {
		return s.Explain(err)
	}
	stop := s.containers.FollowFiles(ctx)
	s.undo.Push("watch of files", func(context.Context) error { return stop() })
	s.forward(ctx)
	if s.config.Debug.Shell != "" {
		server, err := debug.Serve(ctx, s.dir, s.guest)
		if err != nil {
			return err
		}
		s.undo.Push("debug", func(context.Context) error { return server.Close() })
	}
	ctx, cancelWatch := context.WithCancel(log.WithLogger(context.WithoutCancel(ctx), log.G(ctx).WithField("sandbox", s.request.ID)))
	s.undo.Push("network watch", func(context.Context) error { cancelWatch(); return nil })
	return links.Follow(ctx, func() bool { return s.guest.Err() != nil })
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
