// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/labels/lsm"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/clone"
	"cloister/sandbox/confine"
	"cloister/sandbox/containers"
	"cloister/sandbox/content"
	"cloister/sandbox/debug"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/host"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sandbox/recovery"
	"cloister/sandbox/standin"
	"cloister/sandbox/statedir"
	"cloister/sandbox/template"
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// starting is what a start hands from step to step, and lets go of at its end.
type starting struct {
	plan.Sandbox

	hostname string // the host's
	clock    qemu.TSC
	programs lsm.Programs
	mac      confine.MAC      // the driver
	granted  confine.Identity // what the registry has given
	owner    jail.Owner       // whose QEMU is; its id follows from granted
	first    *containers.Planned
	noShare  bool // nothing of first needs a file server
	group    *cgroup.Group
	source   *clone.Source // the template that the machine starts from; nil for a cold start
	memory   *os.File      // of a machine from a template, or that becomes one
	taps     []*os.File
	opened   []*os.File
}

func (p *starting) close() {
	p.source.Close()
	for _, f := range p.opened {
		_ = f.Close()
	}
}

// planner plans containers as the configuration says.
func (s *Sandbox) planner() containers.Planner {
	return containers.Planner{Workloads: s.config.Workloads, Labels: s.config.LabelRules()}
}

// plan decides everything that can be decided without an effect.
func (s *Sandbox) plan(ctx context.Context, p *starting) (err error) {
	first := Container{ID: s.request.ID, Bundle: s.request.Bundle, Workload: s.request.Workload, Rootfs: s.request.Rootfs}
	if p.first, err = s.planner().Plan(first); err != nil {
		return err
	}
	reason := s.config.Machine.FileServer.ShareReason(s.request.Workload, p.first.Container)
	s.notes.Set("file_server", cmp.Or(reason, "none"))
	p.noShare = reason == ""
	if err := s.planMachine(ctx, p); err != nil {
		return err
	}
	s.chooseTemplate(ctx, p)
	s.notes.Set("start", p.source.String())
	s.notes.Set("memory", p.source.Memory())
	s.notes.Set("booted_mib", strconv.Itoa(p.Machine.MemoryMiB)) // more than memory_mib if the template's class is
	return nil
}

// templates are the host's.
func (s *Sandbox) templates(p *starting) clone.Host {
	unshared := func() error { return confine.TemplateReason(s.confine) }
	return clone.Host{Store: s.config.Templates(), QEMU: p.programs.QEMU, MAC: string(p.mac), Unshared: unshared}
}

// chooseTemplate has the sandbox start from a template if there is one for its machine. None is no
// error: the start is cold then, and the log says why.
func (s *Sandbox) chooseTemplate(ctx context.Context, p *starting) {
	mode := s.config.Template.Mode
	if s.cold || mode == template.Off {
		return
	}
	var reason error
	if p.source, p.Machine, reason = s.templates(p).Choose(p.Machine, p.Size, s.request.Workload); reason != nil {
		log.G(ctx).WithField("sandbox", s.request.ID).Infof("the sandbox starts cold: %v", reason)
		s.notes.Set("cold_because", reason.Error())
		s.wanted = s.config.WantTemplate != nil && mode == template.Auto && errors.Is(reason, template.ErrNone)
	} else if !p.Machine.CopyOnWrite {
		log.G(ctx).WithField("sandbox", s.request.ID).Infof("the sandbox's memory is a %s", p.source.Memory())
	}
}

// recall begins to copy the template's memory into the sandbox's own, beside the next steps.
func (s *Sandbox) recall(_ context.Context, p *starting) (err error) {
	p.memory, err = p.source.Recall(p.Machine, p.owner, p.group)
	s.undo.Push("template's memory", p.source.Release)
	return err
}

// planMachine decides what the machine is, and how it is confined. It has no effect on the host.
func (s *Sandbox) planMachine(ctx context.Context, p *starting) error {
	p.clock = qemu.NewTSC()
	if err := errors.Join(s.config.Jail.Check(), s.config.Template.Check(), s.config.Machine.FileServer.Check()); err != nil {
		return err
	}
	var err error
	if p.mac, err = confine.Chosen(s.config.Labels); err != nil {
		return err
	}
	facts, err := s.facts(ctx, p.mac)
	if err != nil {
		return err
	}
	p.hostname = facts.Hostname
	if p.programs, err = host.Programs(s.config.Machine.QEMU, s.config.Machine.Virtiofsd); err != nil {
		return err
	}
	p.Sandbox, err = plan.NewSandbox(plan.SandboxRequest{
		Namespace: s.request.Namespace, ID: s.request.ID,
		Workload: s.request.Workload, Facts: facts, Saved: s.request.Namespace == TemplateNamespace, NoShare: p.noShare,
	})
	if err != nil {
		return err
	}
	s.memory = p.Size.ContainerMemory
	s.notes.Set("machine", string(p.Machine.Type))
	s.notes.Set("memory_mib", strconv.Itoa(p.Size.MemoryMiB))
	s.notes.Set("cpus", strconv.Itoa(p.Size.CPUs))
	dir, err := statedir.New(s.config.State, s.request.Namespace, s.request.ID)
	if err != nil {
		return err
	}
	s.confine, err = confine.Open(confine.Options{
		Attacker: s.config.Attacker, Share: dir.Share(), Guest: []string{p.Machine.Kernel, p.Machine.Initrd},
		KVM:    p.Machine.Accel == vmm.AccelKVM,
		Config: s.config.Labels, Root: s.config.Root, Sandbox: p.Identity.Name, Tenant: p.Identity.Tenant,
		Annotations: s.request.Workload.Settings.Labels, Chosen: p.mac, Wish: p.Identity.Wish, Types: p.Identity.Types,
		Programs: p.programs,
	})
	return err
}

// facts asks configuration and host what the plan needs to know.
func (s *Sandbox) facts(ctx context.Context, mac confine.MAC) (plan.Facts, error) {
	w, c := s.request.Workload, s.config
	f, about, err := host.Find(host.Wanted{
		Image: c.Guest.Image, Root: c.Root, Accel: c.Machine.Accel,
		NICs: c.Machine.NICs, Sizing: c.Sizing, ID: s.request.ID, Workload: w,
	})
	if err != nil {
		return f, err
	}
	if about.Warning != "" {
		log.G(ctx).WithField("sandbox", s.request.ID).Warn(about.Warning)
	}
	for name, value := range about.Facts {
		s.notes.Set(name, value)
	}
	f.Board, f.Devices, f.Host.PerformanceCounters = c.Machine.Type, c.Jail.Has(jail.Devices), c.Machine.PerformanceCounters
	f.Host.HugePages, f.Host.NestedVirtualization = c.Machine.HugePages, c.Machine.NestedVirtualization
	f.Wish, err = confine.Wish(mac, c.Labels, w.Settings.Labels, w.Labels)
	return f, err
}

// promise makes the sandbox's folder and its record, which is there before the first effect. What a
// dead owner left under the same name is taken back first.
func (s *Sandbox) promise(ctx context.Context) error {
	dir, err := statedir.New(s.config.State, s.request.Namespace, s.request.ID)
	if err != nil {
		return err
	}
	if err := s.config.Recovery().Collect(ctx, dir); err != nil {
		return err
	}
	if s.journal, err = statedir.Create(dir, s.request.Bundle); err != nil {
		return err
	}
	s.undo.Push("folder", func(context.Context) error {
		return errors.Join(s.journal.Close(), recovery.RemoveFolder(dir))
	})
	return nil
}

// prepare makes share, cgroup and network namespace, and all taps: QEMU inherits them as files.
func (s *Sandbox) prepare(_ context.Context, p *starting) (err error) {
	if err := s.makeShare(); err != nil {
		return err
	}
	if p.group, err = s.enterCgroup(p.Cgroup); err != nil {
		return err
	}
	ns, err := network.Open(p.Network)
	if err != nil {
		return err
	}
	s.netns = ns
	s.undo.Push("network namespace", func(context.Context) error { return ns.Close() })
	if err := s.claimNetwork(p.Network); err != nil {
		return err
	}
	for _, nic := range p.Machine.NICs {
		tap, err := ns.NewTap(nic.MAC)
		if err != nil {
			return err
		}
		p.taps = append(p.taps, tap)
		p.opened = append(p.opened, tap)
	}
	s.vm = hypervisor.New(hypervisor.Config{
		Programs: p.programs, Driver: s.confine, Identity: p.granted, Jail: s.config.Jail, Owner: p.owner,
		Network: ns.File(), Group: p.group, OOMScore: p.OOMScore, Marker: s.journal.Dir().Marker(), Dir: s.journal.Dir().String(),
		Boot: s.config.Timeouts.Boot.Duration,
	})
	return ns.Check()
}

// makeShare makes the sandbox's own file system and the tree that the file server will show.
func (s *Sandbox) makeShare() error {
	own := func(k confine.Kind) func(*os.File) error { return confine.Admitter(s.confine, k) }
	at := s.journal.Dir()
	dir, err := os.OpenFile(at.String(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close() // O_PATH
	if err := own(confine.State)(dir); err != nil {
		return err
	}
	for _, folder := range []string{at.Own(), at.Share()} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
	}
	s.share, err = content.NewShare(at.Own(), at.Share(), own(confine.State), own(confine.Share), own(confine.Root))
	if err != nil {
		return err
	}
	s.undo.Push("share", func(ctx context.Context) error { return errors.Join(s.containers.Close(ctx), s.share.Close()) })
	return nil
}

// run starts a helper. Its mark is promised: it finds a process whose pid was never written down.
func (s *Sandbox) run(program string, start func() (pid int, err error), stop func(context.Context) error) error {
	e := statedir.Effect{Kind: statedir.KindProcess, Path: program, Detail: s.journal.Dir().Marker()}
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
	if p.Machine.Share == nil {
		return nil
	}
	log, err := s.openLog(statedir.VirtiofsdLog)
	if err != nil {
		return err
	}
	p.opened = append(p.opened, log)
	err = s.run("virtiofsd", func() (int, error) { return s.vm.Serve(ctx, s.journal.Dir().Share(), log) },
		func(context.Context) error { return s.vm.StopFiles() })
	switch ns, top := s.vm.Served(); {
	case ns != nil && top != nil:
		s.share.Serve(ns, top)
	case top != nil:
		_ = top.Close() // O_PATH
	}
	return err
}

// launch starts QEMU with its guest stopped: nothing of the guest runs before verify.
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
	p.Machine.Cmdline = append(p.Machine.Cmdline, p.clock.Cmdline(ctx, p.Machine.Accel)...)
	return s.run("qemu", func() (int, error) { return s.vm.Launch(ctx, p.Machine, logs, p.memory, p.taps) }, s.vm.Stop)
}

// verify reads back what the kernel says of the processes. Only after that does the guest run.
func (s *Sandbox) verify(ctx context.Context) error {
	if err := s.vm.Verify(ctx); err != nil {
		return err
	}
	abi := jail.LandlockABI()
	if abi == 0 && s.config.Jail.Has(jail.Landlock) {
		log.G(ctx).Warn("the kernel has no Landlock: QEMU and virtiofsd start without that part of the jail")
	}
	s.notes.Set("jail", s.config.Jail.On(abi))
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

// greet waits for the agent's hello. A template's guest is woken first: its saved keys are others'.
func (s *Sandbox) greet(ctx context.Context, p *starting) error {
	ctx, cancel := s.vm.Patience(ctx, "the guest's agent sent nothing")
	defer cancel()
	if err := p.source.Wake(ctx, s.vm); err != nil {
		return s.vm.Silent(err)
	}
	guest, hello, err := guestapi.NewClient(ctx, s.vm.Machine.Agent(),
		guestapi.Machine{Starved: s.vm.Starved, Explain: s.Explain, Look: s.vm.Look})
	if err != nil {
		return s.vm.Silent(err)
	}
	s.guest = guest
	s.vm.Greeted(guest)
	s.notes.Set("agent", hello.AgentVersion)
	s.notes.Set("guest_used_mib", strconv.FormatUint(hello.MemUsedKiB>>10, 10))
	s.undo.Push("guest connection", func(context.Context) error { return guest.Close() })
	s.containers = containers.New(containers.Config{
		ID: s.request.ID, Workload: s.request.Workload, Hostname: p.hostname, Memory: s.memory, Planner: s.planner(),
		Driver: s.confine, Rootfs: p.granted.Files, Share: s.share, VM: s.vm, Guest: guest, Done: s.vm.Ended(), Explain: s.Explain,
		AskName: func(ctx context.Context, q guestapi.Question) []byte { return s.netns.AskName(ctx, q.TCP, q.Data) },
		Trace:   s.config.Trace, Phase: s.Phase, Shared: p.Machine.Share != nil,
	}, p.first)
	return nil
}

// configure makes the guest this sandbox's, then follows what the engine changes on the host.
func (s *Sandbox) configure(ctx context.Context, p *starting) error {
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
	call, cancel := s.vm.Patience(ctx, "the guest's agent sent only its first message")
	defer cancel()
	_, err = s.guest.Guest().Configure(call, &guestv1.ConfigureRequest{
		Network: wanted, Hostname: p.Configure.Hostname, TimeUnixNano: time.Now().UnixNano(), Entropy: entropy,
		Sysctls: p.Configure.Sysctls, ShareTag: p.Configure.ShareTag, ShareInodes: s.vm.ShareInodes(),
	})
	if cause := context.Cause(call); err != nil && cause != nil && ctx.Err() == nil {
		return s.vm.Silent(cause)
	}
	if err != nil {
		return s.Explain(err)
	}
	// Configure takes long in an emulated guest, whose clock is behind by a part of that.
	if err := s.guest.SetTime(call); err != nil {
		return s.Explain(err)
	}
	stop := s.containers.FollowFiles(ctx)
	s.undo.Push("watch of files", func(context.Context) error { return stop() })
	s.forward(ctx)
	if s.config.Debug.Shell != "" {
		server, err := debug.Serve(ctx, s.journal.Dir(), s.guest)
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

// Place is where the processes of the sandbox are, for programs that stand for them.
func (s *Sandbox) Place() (standin.Place, error) {
	empty, err := s.share.Empty()
	return standin.Place{VM: s.vm, Driver: s.confine, Jail: s.config.Jail, Dir: s.journal.Dir(), MAC: s.Facts()["mac"], Empty: empty}, err
}
