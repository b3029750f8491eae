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
	"cloister/sys"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

func checkHost(_ context.Context, s *site) []finding {
	list := []finding{s.kernel(), accel(s.config.Machine.Accel, qemu.Host{}), s.hugePages(), s.tun(), s.cgroups()}
	if os.Geteuid() != 0 {
		list = append(list, warn("user", fmt.Sprintf("uid %d: some of what follows cannot be seen", os.Geteuid()), "run it as root"))
	}
	return list
}

func (s *site) kernel() finding {
	text, err := os.ReadFile(s.path("proc/sys/kernel/osrelease"))
	if err != nil {
		return failed("kernel", err)
	}
	return ok("kernel", "%s, %s", strings.TrimSpace(string(text)), runtime.GOARCH)
}

func accel(want vmm.Accel, host qemu.Host) finding {
	got, warning, err := qemu.DetectAccel(want, host)
	switch {
	case err != nil:
		return failed("acceleration", err)
	case warning != "":
		return warn("acceleration", warning,
			"on a machine of your own: switch virtualization on in its firmware, load kvm_intel or kvm_amd")
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
	free, _ := strconv.Atoi(strings.TrimSpace(string(text))) // none where it cannot be read
	if err != nil || free == 0 {
		return fail("huge pages", "machine.hugepages is on, and no page of 2 MiB is free",
			"sysctl -w vm.nr_hugepages=N, with 1 for each 2 MiB of guests; or set hugepages = false")
	}
	return ok("huge pages", "%d of 2 MiB are free: %d MiB of guests", free, 2*free)
}

func (s *site) tun() finding {
	f, err := os.OpenFile(s.path("dev/net/tun"), os.O_RDWR, 0)
	if err != nil {
		return fail("tap devices", err.Error(), "modprobe tun, and run it as root")
	}
	_ = f.Close()
	return ok("tap devices", "/dev/net/tun opens")
}

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

// program is one that sandboxes need. The places are those that the shim tries.
type program struct {
	name, configured string
	places           []string
	version          string // the argument that asks for it
	packages         string
	needed           bool
}

func (s *site) programs() []program {
	return []program{
		{"QEMU", s.config.Machine.QEMU, []string{"qemu-system-x86_64"}, "--version", "qemu-system-x86 (Debian), qemu-kvm (Fedora)", true},
		{
			"virtiofsd", s.config.Machine.Virtiofsd,
			[]string{"virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"},
			"--version", "qemu-system-common or virtiofsd", true,
		},
		{"shim", "", []string{shimBinary, filepath.Join(selfDir(), shimBinary)}, "-v", "", true},
		{"containerd", "", []string{"containerd"}, "--version", "containerd", false},
	}
}

const shimBinary = "containerd-shim-cloister-v2"

func selfDir() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(self)
}

func (p program) remedy() string {
	if p.name == "shim" {
		return "put it into a folder of containerd's PATH: make install"
	}
	return "install " + p.packages + ", or set its path under [machine] in the config"
}

// find gives the program's file, links resolved.
func (p program) find() (string, error) {
	places := p.places
	if p.configured != "" {
		places = []string{p.configured}
	}
	for _, place := range places {
		path, err := exec.LookPath(place)
		if err == nil {
			return filepath.EvalSymlinks(path)
		}
		if errors.Is(err, os.ErrPermission) {
			return "", fmt.Errorf("%w: it has no execute permission: chmod 755", err)
		}
	}
	return "", fmt.Errorf("%s: not found: %w", strings.Join(places, ", "), os.ErrNotExist)
}

func checkPrograms(ctx context.Context, s *site) []finding {
	var list []finding
	for _, p := range s.programs() {
		path, err := p.find()
		version := ""
		if err == nil {
			version, err = askVersion(ctx, path, p.version)
		}
		switch {
		case err != nil && p.needed:
			list = append(list, fail(p.name, err.Error(), p.remedy()))
		case err != nil:
			list = append(list, warn(p.name, err.Error(), "install "+p.packages+", unless another engine starts the shim"))
		default:
			list = append(list, ok(p.name, "%s: %s", path, version))
		}
	}
	return list
}

// askVersion gives the first line a program says of itself. A program that ends with an error does
// not run here: a library may be missing.
func askVersion(ctx context.Context, path, flag string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, flag).CombinedOutput()
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

func checkImage(ctx context.Context, s *site) []finding {
	image, err := guestimage.Open(s.config.Guest.Image)
	if err != nil {
		return []finding{failed("files", err)}
	}
	if err := image.Verify(); err != nil {
		return []finding{failed("files", err)}
	}
	for _, file := range []string{filepath.Join(image.Dir, guestimage.ManifestName), image.Kernel(), image.Initrd()} {
		if err := sys.Trusted(file); err != nil {
			return []finding{failed("files", err)}
		}
	}
	m := image.Manifest
	list := []finding{ok("files", "%s: %s, kernel %s, checksums are right", image.Dir, m.Flavour, m.Kernel.Version)}
	if m.Agent.Protocol != 0 && m.Agent.Protocol != guestapi.Protocol {
		list = append(list, fail("agent", fmt.Sprintf("version %s speaks protocol %d, this host %d",
			m.Agent.Version, m.Agent.Protocol, guestapi.Protocol),
			"cloister guest build"))
	} else {
		list = append(list, ok("agent", "version %s, protocol %d", m.Agent.Version, m.Agent.Protocol))
	}
	return append(list, newerPackages(ctx, m), s.oldGuests())
}

// newerPackages tells whether the distribution has newer versions of what the image is made of.
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
		if !n.Installed {
			absent = append(absent, n.Package)
		}
	}
	remedy := "cloister guest update"
	if len(absent) > 0 {
		remedy = "apt-get install --only-upgrade " + strings.Join(absent, " ") + ", then " + remedy
	}
	return warn(name, "older than the distribution's: "+strings.Join(lines, ", "), remedy)
}

// oldGuests tells how many sandboxes run on another image than the folder has.
func (s *site) oldGuests() finding {
	boxes, err := s.sandboxes()
	if err != nil {
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
			"start them anew; `cloister ps` shows which")
	}
	return ok("running guests", "%d, none on an older image", running)
}

func checkHardening(_ context.Context, s *site) []finding {
	var list []finding
	for _, p := range s.programs()[:2] {
		path, err := p.find()
		if err != nil {
			continue // told of under programs
		}
		list = append(list, harden(p.name, path))
	}
	return append(list, s.aslr())
}

func harden(name, path string) finding {
	f, err := os.Open(path)
	if err != nil {
		return warn(name, err.Error(), "run it as root")
	}
	defer f.Close()
	r, err := hardening.Read(f)
	if err != nil {
		return warn(name, fmt.Sprintf("%s: %v", path, err),
			"name the program itself, not a script around it, under [machine] in the config")
	}
	if missing := r.Missing(); len(missing) > 0 {
		return warn(name, path+" has no "+strings.Join(missing, ", no "),
			"take the distribution's package, or build with -fPIE -pie -fstack-protector-strong -D_FORTIFY_SOURCE=2 -Wl,-z,relro,-z,now")
	}
	if r.Rust {
		return ok(name, "full RELRO, NX, PIE; written in Rust, which needs no canary or FORTIFY")
	}
	return ok(name, "full RELRO, canary, NX, PIE, FORTIFY")
}

func (s *site) aslr() finding {
	text, err := os.ReadFile(s.path("proc/sys/kernel/randomize_va_space"))
	switch value := strings.TrimSpace(string(text)); {
	case errors.Is(err, os.ErrNotExist):
		return warn("host ASLR", "this kernel does not tell", "")
	case err != nil:
		return failed("host ASLR", err)
	case value != "2":
		return fail("host ASLR", "kernel.randomize_va_space is "+value+", want 2: addresses can be guessed",
			"sysctl -w kernel.randomize_va_space=2")
	}
	return ok("host ASLR", "kernel.randomize_va_space is 2")
}
