// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sys"
)

// Site is what is attacked, and from where. Peer is a second sandbox of the same host, so that
// attacks between sandboxes meet its real labels and ids.
type Site struct {
	Class  oci.Class
	MAC    string
	Layers []Layer // that are on
	// Attacker is the program and its argument that call Attacker, Victim those that call Victim.
	Attacker, Victim []string
	// From is the sandbox whose processes attack, Peer another one.
	From, Peer Domain
	// PeerFiles are files and folders of the other sandbox, by what they are.
	PeerFiles map[string]string
}

// Run makes all attacks. It needs root and a mount namespace of the caller's own, makes sockets and
// shared memory on the host, and leaves nothing. An error means that an attack could not be made,
// not that one has succeeded.
func Run(ctx context.Context, s Site) (_ Report, err error) {
	r := &runner{Site: s, victims: map[string]*process{}, shared: -1}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.prepare(ctx); err != nil {
		return Report{}, err
	}
	report := Report{Class: string(s.Class), MAC: s.MAC, Layers: s.Layers}
	roles, list := []confine.Role{confine.Machine, confine.FileServer}, rows
	if s.Class == oci.ClassProcess {
		roles, list, report.NotAttacked = []confine.Role{confine.Container}, containerRows, notPromised()
	}
	r.rows = list(r.targets())
	if counted, err := countedLoads(kexecLimit); err != nil {
		return Report{}, err
	} else if counted {
		r.rows = slices.DeleteFunc(r.rows, func(a attack) bool { return a.name == "kexec_file_load" })
	}
	for _, a := range r.rows {
		report.Outcomes = append(report.Outcomes, Outcome{By: string(a.by), Attack: a.name, On: a.on})
	}
	for _, by := range roles {
		if err := r.rounds(ctx, by, report.Outcomes); err != nil {
			return Report{}, err
		}
	}
	return report.settle(), nil
}

// rounds makes a role's attacks with all layers, with none, and with each alone. The round without
// a layer is the control.
func (r *runner) rounds(ctx context.Context, by confine.Role, all []Outcome) error {
	err := r.round(ctx, by, r.Layers, func(i int, said string) {
		all[i].Denied, all[i].Seen = said != done, strings.TrimPrefix(said, denied)
	})
	if err != nil {
		return fmt.Errorf("with all layers: %w", err)
	}
	if err := r.round(ctx, by, nil, func(i int, said string) {
		if all[i].Control = said == done; !all[i].Control {
			all[i].Without = strings.TrimPrefix(said, denied)
		}
	}); err != nil {
		return fmt.Errorf("without a layer: %w", err)
	}
	for _, l := range r.Layers {
		if err := r.round(ctx, by, []Layer{l}, func(i int, said string) {
			if said != done && all[i].Control {
				all[i].Layers = append(all[i].Layers, l)
			}
		}); err != nil {
			return fmt.Errorf("with the layer %s alone: %w", l, err)
		}
	}
	return nil
}

// runner makes attacks. It is used by one goroutine.
type runner struct {
	Site
	dir     string // root's folder that all users may write to
	tcp     net.Listener
	unix    net.Listener        // abstract
	named   net.Listener        // at a path, as containerd's
	disk    string              // a device that attacks make a node of; empty: root could open none
	key     int                 // of the segment of shared memory
	shared  int                 // that segment; -1: none, as 0 is the first of a host
	victims map[string]*process // by whose
	rows    []attack
}

// start starts a program in a domain, or as root without one. A container's is in the folder of
// what is attacked, so that attacks on its own files and root's have one name.
func (r *runner) start(ctx context.Context, d Domain, argv []string, by confine.Role, with []Layer) (*process, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", []string{}
	if by == confine.Container {
		cmd.Dir = r.dir
	}
	// It ends when its stream does; a Pdeathsig finds no parent in a pid namespace.
	p, err := d.Start(ctx, cmd, by, with)
	if err != nil {
		return nil, err
	}
	return &process{p, bufio.NewReader(p)}, nil
}

// round makes all attacks of a role with some layers, and tells what the attacker said of each. One
// attacker makes as many attacks as it survives, since each start in a jail costs milliseconds and
// there are over a thousand attacks in all.
func (r *runner) round(ctx context.Context, by confine.Role, with []Layer, tell func(i int, said string)) error {
	var attacker *process
	defer func() {
		if attacker != nil {
			_ = attacker.End() // killed
		}
	}()
	for i, a := range r.rows {
		if a.by != by {
			continue
		}
		target, err := r.aim(ctx, a)
		if err != nil {
			return err
		}
		if attacker == nil {
			if attacker, err = r.attacker(ctx, by, with); err != nil {
				return err
			}
		}
		said, ended, err := attacker.attack(a.name, target)
		if err != nil {
			return err
		}
		if ended {
			attacker = nil
		}
		tell(i, said)
		if err := r.restore(ctx, a, said); err != nil {
			return err
		}
	}
	return nil
}

// restore makes the host ready for the attack after a. A file that one attack has made would turn
// the next attack's success into EEXIST.
func (r *runner) restore(ctx context.Context, a attack, said string) error {
	if said == done && strings.HasSuffix(a.name, "kill") { // the signal may be on its way
		r.bury(a.on)
	}
	return errors.Join(ctx.Err(), r.tidy())
}

// attacker starts the attacking program, which says that it runs: the end of one that cannot run
// must not be taken for a denial.
func (r *runner) attacker(ctx context.Context, by confine.Role, with []Layer) (*process, error) {
	p, err := r.start(ctx, r.From, r.Attacker, by, with)
	if err != nil {
		return nil, err
	}
	if err := Ready(p.lines); err != nil {
		return nil, fmt.Errorf("the attacker: %w", errors.Join(err, p.End()))
	}
	return p, nil
}

// prepare makes what is attacked. All of it is open to all users by its mode, so that only the
// layers stand between it and the attacker.
func (r *runner) prepare(ctx context.Context) (err error) {
	if r.dir, err = os.MkdirTemp("", "cloister-prove-"); err != nil {
		return err
	}
	// In the caller's mount namespace alone: no user of the host can put links where root's attacks
	// go.
	if err := unix.Mount("cloister-prove", r.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0777,size=64m"); err != nil {
		return fmt.Errorf("folder of what is attacked: %w", err)
	}
	if err := errors.Join(
		os.WriteFile(r.path(secretFile), []byte("secret"), 0o600),
		os.WriteFile(r.path(openFile), []byte("open"), 0o600), os.Chmod(r.path(openFile), 0o666),
		os.Mkdir(r.path(mountFolder), 0o755), r.makeDisk(),
	); err != nil {
		return err
	}
	if r.tcp, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if r.unix, err = (&net.ListenConfig{}).Listen(ctx, "unix", "@"+filepath.Base(r.dir)); err != nil {
		return err
	}
	if r.named, err = (&net.ListenConfig{}).Listen(ctx, "unix", r.path(socketFile)); err != nil {
		return err
	}
	return r.share()
}

// kexecLimit says how many kernels root may still load for a reboot; -1: no limit.
const kexecLimit = "/proc/sys/kernel/kexec_load_limit_reboot"

// countedLoads tells whether the kernel counts such loads: root's own try would take one of them,
// also one that fails. A kernel before 6.3 has no limit.
func countedLoads(file string) (bool, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.TrimSpace(string(text)) != "-1", err
}

// makeDisk makes a node that is open to all users: a disk of the host, or /dev/zero where there is
// none. Attacks open it and write nothing.
func (r *runner) makeDisk() (err error) {
	if r.disk, err = r.findDisk(); err != nil {
		return err
	}
	kind, number := uint32(unix.S_IFCHR), unix.Mkdev(1, 5)
	if r.disk != "" {
		var major, minor uint32
		if _, err := fmt.Sscanf(r.disk, "%d:%d", &major, &minor); err != nil {
			return err
		}
		kind, number = unix.S_IFBLK, unix.Mkdev(major, minor)
	}
	return errors.Join(unix.Mknod(r.path(diskFile), kind|0o666, int(number)), os.Chmod(r.path(diskFile), 0o666))
}

// findDisk names a disk of the host that root can open, as "make and open" wants it. A host may
// have nodes of disks that are not there.
func (r *runner) findDisk() (string, error) {
	numbers, err := filepath.Glob("/sys/block/*/dev")
	if err != nil {
		return "", err
	}
	for _, name := range numbers {
		number, err := os.ReadFile(name)
		if err != nil {
			continue // it has gone
		}
		if disk := strings.TrimSpace(string(number)); makeAndOpen(r.path(nodeFile)+" "+disk) == nil {
			return disk, nil
		}
	}
	return "", nil
}

// targets are what was prepared.
func (r *runner) targets() targets {
	return targets{
		dir: r.dir, tcp: r.tcp.Addr().String(), abstract: r.unix.Addr().String(), socket: r.path(socketFile), disk: r.disk,
		key: r.key, peerFiles: r.PeerFiles,
	}
}

// share makes a segment of shared memory. Its key is random, so that two runs do not meet.
// IPC_EXCL: a segment that is somebody's must not be attacked.
func (r *runner) share() error {
	random := make([]byte, 4)
	_, _ = rand.Read(random)                               // it never fails
	r.key = int(binary.NativeEndian.Uint32(random)>>1 | 1) // key_t has a sign, and 0 is IPC_PRIVATE
	id, err := unix.SysvShmGet(r.key, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	if err != nil {
		return fmt.Errorf("shared memory with key %#x: %w", r.key, err)
	}
	r.shared = id
	return nil
}

func (r *runner) path(name string) string { return filepath.Join(r.dir, name) }

// leftovers are what attacks make if they succeed.
func (r *runner) leftovers() []string {
	return []string{r.path(newFile), r.path(fullFile), r.path(nodeFile), r.path(linkFile), inMemory(r.dir)}
}

// tidy takes away what an attack has made. EINVAL: nothing is mounted there.
func (r *runner) tidy() error {
	for _, name := range r.leftovers() {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := unix.Unmount(r.path(mountFolder), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount what an attack has mounted: %w", err)
	}
	return nil
}

// close ends the victims and takes away what prepare made, as far as it came.
func (r *runner) close() error {
	var errs []error
	for _, v := range r.victims {
		_ = v.End() // killed
	}
	for _, l := range []net.Listener{r.tcp, r.unix, r.named} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if r.shared >= 0 {
		_, err := unix.SysvShmCtl(r.shared, unix.IPC_RMID, nil)
		errs = append(errs, err)
	}
	if r.dir != "" {
		errs = append(errs, r.tidy())
		_ = unix.Unmount(r.dir, unix.MNT_DETACH) // EINVAL: nothing was mounted
		errs = append(errs, sys.RemoveTree(r.dir))
	}
	return errors.Join(errs...)
}

// aim gives the target of an attack as the attacker is told it. Only victims of the run's own are
// attacked: never a process of the host's.
func (r *runner) aim(ctx context.Context, a attack) (string, error) {
	if !slices.Contains([]string{rootsProcess, peersQEMU, peersServer, peersContainer}, a.on) {
		return a.target, nil
	}
	pid, err := r.victim(ctx, a.on)
	if err != nil {
		return "", err
	}
	target := strings.ReplaceAll(a.target, pidWord, strconv.Itoa(pid))
	if strings.HasPrefix(a.name, "process_vm_") {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			return "", err
		}
		address, err := writable(string(maps))
		target += " " + address
		return target, err
	}
	return target, nil
}

// writable is the start of the first part of a process's memory that it may write to. It is where
// "process_vm_writev" writes.
func writable(maps string) (string, error) {
	for line := range strings.Lines(maps) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], "rw") {
			address, _, _ := strings.Cut(fields[0], "-")
			return address, nil
		}
	}
	return "", errors.New("the victim has no memory that can be written to")
}

// victim is the pid of a process of somebody's that runs. One is started when there is none: the
// last may have been killed. root's has no layer; those of the peer have all, as its QEMU and
// server would.
func (r *runner) victim(ctx context.Context, whose string) (int, error) {
	if v := r.victims[whose]; v != nil {
		return v.PID(), nil
	}
	role, with := confine.Machine, r.Layers
	switch whose {
	case peersServer:
		role = confine.FileServer
	case peersContainer:
		role = confine.Container
	case rootsProcess:
		with = nil
		if r.Class == oci.ClassProcess {
			role = confine.Container // without a layer no role differs; the Domain has this one alone
		}
	}
	v, err := r.start(ctx, r.Peer, r.Victim, role, with)
	if err != nil {
		return 0, err
	}
	if err := Ready(v.lines); err != nil {
		return 0, fmt.Errorf("the victim: %w", errors.Join(err, v.End()))
	}
	r.victims[whose] = v
	return v.PID(), nil
}

// bury ends a victim: the next attack has another one. A victim that has a signal coming might die
// in the middle of the next attack and make it look denied.
func (r *runner) bury(whose string) {
	_ = r.victims[whose].End() // killed
	delete(r.victims, whose)
}
