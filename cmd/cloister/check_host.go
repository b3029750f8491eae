// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"cloister/cmd/internal/hardening"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/hypervisor"
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
	"cloister/vmm/virtiofsd"
)

// checkHost checks the kernel, acceleration, huge pages, tap devices and cgroups.
func checkHost(_ context.Context, s *site) []finding {
	list := []finding{s.kernel(), accel(s.config.Machine.Accel, qemu.Host{}), s.hugePages(), s.tun(), s.cgroups()}
	// Without root, sizes and labels of other processes are hidden, and lines would say less than
	// they seem to.
	if os.Geteuid() != 0 {
		list = append(list, warn("user", fmt.Sprintf("uid %d: some of what follows cannot be seen", os.Geteuid()), "run it as root"))
	}
	return list
}

// kernel only names the kernel: what needs a newer one has a line of its own.
func (s *site) kernel() finding {
	text, err := os.ReadFile(s.path("proc/sys/kernel/osrelease"))
	if err != nil {
		return failed("kernel", err)
	}
	return ok("kernel", "%s, %s", strings.TrimSpace(string(text)), runtime.GOARCH)
}

// accel asks the same function as a start, so both decide alike. /dev/kvm alone is not enough: a
// paravirtual one boots no ordinary kernel.
func accel(want vmm.Accel, host qemu.Host) finding {
	got, warning, err := qemu.DetectAccel(want, host)
	switch {
	// The error of accel = "kvm" on a host without it has its remedy.
	case err != nil:
		return failed("acceleration", err)
	case warning != "":
		return warn("acceleration", warning,
			"on a machine of your own: switch virtualization on in its firmware, load kvm_intel or kvm_amd")
	// Somebody has asked for emulation: not wrong, but slow.
	case got == vmm.AccelTCG:
		return warn("acceleration", "guests are emulated (tcg) and slow, as machine.accel says",
			"set machine.accel to auto where there is KVM")
	}
	return ok("acceleration", "%s", got)
}

// hugePages tells whether the configured pages are there at all; how many a machine takes is its
// size.
func (s *site) hugePages() finding {
	if !s.config.Machine.HugePages {
		return ok("huge pages", "not asked for")
	}
	text, err := os.ReadFile(s.path("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"))
	// QEMU takes pages of 2 MiB; other sizes do not count.
	free, _ := strconv.Atoi(strings.TrimSpace(string(text))) // none where it cannot be read
	// All of them in use counts as none: the next guest would not start.
	if err != nil || free == 0 {
		return fail("huge pages", "machine.hugepages is on, and no page of 2 MiB is free",
			"sysctl -w vm.nr_hugepages=N, with 1 for each 2 MiB of guests; or set hugepages = false")
	}
	return ok("huge pages", "%d of 2 MiB are free: %d MiB of guests", free, 2*free)
}

// tun opens the device: that it is there says nothing about the right to use it.
func (s *site) tun() finding {
	f, err := os.OpenFile(s.path("dev/net/tun"), os.O_RDWR, 0)
	// Either the device is missing, or this user may not open it.
	if err != nil {
		return fail("tap devices", err.Error(), "modprobe tun, and run it as root")
	}
	_ = f.Close()
	return ok("tap devices", "/dev/net/tun opens")
}

// cgroups accepts all three forms; the line says which, since limits are set differently in each.
func (s *site) cgroups() finding {
	if _, err := os.Stat(s.path("sys/fs/cgroup/cgroup.controllers")); err == nil {
		return ok("cgroups", "version 2")
	}
	if _, err := os.Stat(s.path("sys/fs/cgroup/unified/cgroup.procs")); err == nil {
		return ok("cgroups", "hybrid: controllers of version 1")
	}
	if _, err := os.Stat(s.path("sys/fs/cgroup/memory")); err == nil {
		return ok("cgroups", "version 1")
	}
	return fail("cgroups", "none under /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}

// program is one that sandboxes need. The places are those that the shim tries. Looked for as the
// shim looks, so that check does not find a QEMU that a start would not.
type program struct {
	name, configured string
	places           []string
	version          string // the argument that asks for it
	packages         string
	needed           bool
}

// programs are those that a sandbox needs. checkHardening takes the first two, domain the first
// three, in this order.
func (s *site) programs() []program {
	return []program{
		// The packages' names are those of Debian and Fedora.
		{"QEMU", s.config.Machine.QEMU, []string{"qemu-system-x86_64"}, "--version", "qemu-system-x86 (Debian), qemu-kvm (Fedora)", true},
		{
			"virtiofsd", s.config.Machine.Virtiofsd,
			virtiofsd.Places(),
			"--version", "qemu-system-common or virtiofsd", true,
		},
		{"shim", "", []string{shimBinary, filepath.Join(selfDir(), shimBinary)}, "-v", "", true},
		{"containerd", "", []string{"containerd"}, "--version", "containerd", false},
	}
}

const shimBinary = "containerd-shim-cloister-v2"

// selfDir is the folder of this program; a shim beside it counts, for installations outside of the
// PATH.
func selfDir() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(self)
}

// remedy is for a program that is missing.
func (p program) remedy() string {
	if p.name == "shim" {
		return "put it into a folder of containerd's PATH: make install"
	}
	return "install " + p.packages + ", or set its path under [machine] in the config"
}

// risk is an error when others may change the program or a link to it, or the firmware of a QEMU.
func (p program) risk(found string) error {
	if err := sys.Trusted(found); err != nil || p.name != "QEMU" {
		return err
	}
	path, err := filepath.EvalSymlinks(found)
	if err != nil {
		return err
	}
	return hypervisor.TrustedFirmware(path)
}

// risky is about a program that others may change. A start refuses QEMU and the file server then.
func (p program) risky(risk error) finding {
	const remedy = "take the distribution's package"
	if p.needed {
		return fail(p.name, risk.Error(), remedy)
	}
	return warn(p.name, "not asked for its version: "+risk.Error(), remedy)
}

// find gives the program's file, links resolved.
func (p program) find() (string, error) {
	path, err := p.named()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// named gives the program's file or a link to it. The place that the config names is the only one
// then. A file without the execute bit is told apart: "not found" would send people to the package
// manager.
func (p program) named() (string, error) {
	places := p.places
	if p.configured != "" {
		places = []string{p.configured}
	}
	// An absolute place is only looked at; a name is searched in PATH.
	for _, place := range places {
		path, err := exec.LookPath(place)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, os.ErrPermission) {
			return "", fmt.Errorf("%w: it has no execute permission: chmod 755", err)
		}
	}
	return "", fmt.Errorf("%s: not found: %w", strings.Join(places, ", "), os.ErrNotExist)
}

// checkPrograms finds each program and asks it for its version.
func checkPrograms(ctx context.Context, s *site) []finding {
	var list []finding
	for _, p := range s.programs() {
		path, err := p.named()
		version := ""
		if err == nil {
			if risk := p.risk(path); risk != nil { // asked for its version it would run as root
				list = append(list, p.risky(risk))
				continue
			}
			if path, err = filepath.EvalSymlinks(path); err == nil {
				version, err = askVersion(ctx, path, p.version)
			}
		}
		switch {
		case err != nil && p.needed:
			list = append(list, fail(p.name, err.Error(), p.remedy()))
		case err != nil:
			// containerd is not needed: Docker and Podman can do without it.
			list = append(list, warn(p.name, err.Error(), "install "+p.packages+", unless another engine starts the shim"))
		default:
			list = append(list, ok(p.name, "%s: %s", path, version))
		}
	}
	return list
}

// askVersion gives the first line a program says of itself. A program that ends with an error does
// not run here: a library may be missing. It has one flag and ten seconds: a program that hangs
// must not hang the check.
func askVersion(ctx context.Context, path, flag string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, flag)
	cmd.WaitDelay = time.Second // for a child that keeps the output open
	out, err := cmd.CombinedOutput()
	line, rest, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if strings.HasSuffix(line, ":") { // a heading, as the shim's
		line, _, _ = strings.Cut(rest, "\n")
		line = strings.TrimSpace(line)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %.200q", path, flag, err, line)
	}
	return line, nil
}

// checkImage checks the guest image as a start does: its files are root's alone, and their digests
// are right. A kernel that others may write would be a way into every guest.
func checkImage(ctx context.Context, s *site) []finding {
	image, err := guestimage.Open(s.config.Guest.Image)
	if err != nil {
		return []finding{failed("files", err)}
	}
	// A digest that does not fit is a damaged disk or a changed file; the remedy is in the error.
	if err := image.Verify(); err != nil {
		return []finding{failed("files", err)}
	}
	// A folder above that others may write is found too.
	for _, file := range []string{filepath.Join(image.Dir, guestimage.ManifestName), image.Kernel(), image.Initrd()} {
		if err := sys.Trusted(file); err != nil {
			return []finding{failed("files", err)}
		}
	}
	m := image.Manifest
	list := []finding{ok("files", "%s: %s, kernel %s, checksums are right", image.Dir, m.Flavour, m.Kernel.Version)}
	// Protocol 0 is a manifest without the field. The agent's hello says its protocol again at each
	// start.
	if m.Agent.Protocol != 0 && m.Agent.Protocol != guestapi.Protocol {
		list = append(list, fail("agent", fmt.Sprintf("version %s speaks protocol %d, this host %d",
			m.Agent.Version, m.Agent.Protocol, guestapi.Protocol),
			"cloister guest build"))
	} else {
		list = append(list, ok("agent", "version %s, protocol %d", m.Agent.Version, m.Agent.Protocol))
	}
	return append(list, newerPackages(ctx, m), s.oldGuests())
}

// newerPackages tells whether the distribution has newer versions of what the image is made of. A
// failure to compare is a warning only: dpkg is not on every host.
func newerPackages(ctx context.Context, m guestimage.Manifest) finding {
	const name = "its packages"
	list, err := m.Newer(ctx)
	if err != nil {
		return warn(name, "not compared with the distribution's: "+err.Error(), "")
	}
	if len(list) == 0 {
		return ok(name, "no newer version of kernel, crun or a library is known")
	}
	lines, absent := make([]string, 0, len(list)), []string{}
	for _, n := range list {
		lines = append(lines, n.String())
		// Packages that are installed already need a rebuild alone; the others have to be upgraded
		// first.
		if !n.Installed {
			absent = append(absent, n.Package)
		}
	}
	remedy := "cloister guest update"
	// Upgraded alone: an upgrade of everything is the administrator's to decide.
	if len(absent) > 0 {
		remedy = "apt-get install --only-upgrade " + strings.Join(absent, " ") + ", then " + remedy
	}
	return warn(name, "older than the distribution's: "+strings.Join(lines, ", "), remedy)
}

// oldGuests tells how many sandboxes run on another image than the folder has. A guest keeps its
// kernel until it is started anew, so an update of the image does not reach it.
func (s *site) oldGuests() finding {
	boxes, err := s.sandboxes()
	if err != nil {
		// Without root the records cannot be read, which is a fail of this line only.
		return failed("running guests", err)
	}
	running, old := 0, 0
	for _, b := range boxes {
		if b.state() == stateRunning {
			running++
			if b.image().Old {
				old++
			}
		}
	}
	if old > 0 {
		return warn("running guests", fmt.Sprintf("%d of %d run on an older image", old, running),
			"restart them; `cloister ps` shows which")
	}
	return ok("running guests", "%d, none on an older image", running)
}

// checkHardening reads what compiler and linker did for QEMU and the file server, the two programs
// that parse a guest's bytes in C.
func checkHardening(_ context.Context, s *site) []finding {
	var list []finding
	for _, p := range s.programs()[:2] {
		path, err := p.find()
		if err != nil {
			continue // told of under programs
		}
		// Only the file server exists in Rust as a whole. QEMU has devices in Rust beside its C.
		list = append(list, harden(p.name, path, p.name == "virtiofsd"))
	}
	return append(list, s.aslr())
}

// harden is a warning at most: a program without a canary runs all the same. What Rust's compiler
// does by itself excuses only a program that is written in Rust as a whole.
func harden(name, path string, mayBeRust bool) finding {
	f, err := os.Open(path)
	if err != nil {
		return warn(name, err.Error(), "run it as root")
	}
	defer f.Close()
	// A shell script around QEMU has no ELF header, and hides what runs.
	r, err := hardening.Read(f)
	if err != nil {
		return warn(name, fmt.Sprintf("%s: %v", path, err),
			"name the program itself, not a script around it, under [machine] in the config")
	}
	r.Rust = r.Rust && mayBeRust
	if missing := r.Missing(); len(missing) > 0 {
		return warn(name, path+" has no "+strings.Join(missing, ", no "),
			"take the distribution's package, or build with -fPIE -pie -fstack-protector-strong -D_FORTIFY_SOURCE=2 -Wl,-z,relro,-z,now")
	}
	if r.Rust {
		return ok(name, "full RELRO, NX, PIE; written in Rust, which needs no canary or FORTIFY")
	}
	return ok(name, "full RELRO, canary, NX, PIE, FORTIFY")
}

// aslr is a fail: with a fixed layout, each fault in QEMU is easier to use for all guests at once.
func (s *site) aslr() finding {
	text, err := os.ReadFile(s.path("proc/sys/kernel/randomize_va_space"))
	switch value := strings.TrimSpace(string(text)); {
	case errors.Is(err, os.ErrNotExist):
		return warn("host ASLR", "not known: this kernel has no kernel.randomize_va_space", "")
	case err != nil:
		return failed("host ASLR", err)
	case value != "2":
		return fail("host ASLR", "kernel.randomize_va_space is "+value+", want 2: addresses can be guessed",
			"sysctl -w kernel.randomize_va_space=2")
	}
	return ok("host ASLR", "kernel.randomize_va_space is 2")
}
