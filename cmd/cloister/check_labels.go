// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cloister/labels"
	"cloister/labels/apparmor"
	"cloister/labels/lsm"
	"cloister/labels/policy"
	"cloister/sandbox/confine"
	"cloister/sandbox/statedir"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// checkLabels asks what keeps sandboxes apart beyond their guests. It asks the same functions as a
// start (confine.Choose, confine.Types), so what it says is what a start would do.
func checkLabels(ctx context.Context, s *site) []finding {
	enabled, err := s.host.Enabled()
	if err != nil {
		return []finding{failed("SELinux", err)}
	}
	// The same choice as at a start; an error here is that of every start.
	chosen, err := confine.Choose(s.config.Labels, s.host, s.profiles)
	if err != nil {
		return []finding{failed("mac", err)}
	}
	// AppArmor has no policy module and no booleans: its profiles are made for each start.
	if chosen == confine.AppArmor {
		return s.checkProfiles()
	}
	driver, err := lsm.Open(lsm.Options{Mode: lsm.Mode(chosen), AllowPermissive: s.config.Labels.AllowPermissive, Host: s.host})
	switch {
	// The config demands SELinux. With mac = "auto" this host would get AppArmor or the jail alone.
	case err != nil && !enabled:
		return []finding{fail("SELinux", "is not enabled on this host, and labels.mac is \"selinux\"",
			"install a policy and boot with security=selinux, or leave mac out under [labels]: the default takes what the host has")}
	// The driver refuses a permissive host unless the config allows one: a label that nobody
	// enforces protects nothing.
	case err != nil: // permissive, or no policy is loaded
		return append([]finding{failed("SELinux", err)}, s.policyState(ctx)...)
	case driver.Mode() == lsm.ModeNone:
		return []finding{s.checkNone(driver)}
	}
	list := []finding{strength(driver), s.basePolicy()}
	list = append(list, s.policyState(ctx)...)
	return append(list, s.domain(driver)...)
}

// checkNone says what a host without mandatory access control is worth, and what it could have.
func (s *site) checkNone(d *lsm.Driver) finding {
	// The host has AppArmor, and the config says none.
	if enabled, err := s.profiles.Enabled(); err == nil && enabled {
		return warn("mac", d.Strength(), "this host has AppArmor: mac = \"auto\" under [labels]")
	}
	return warn("mac", d.Strength(), "enable SELinux or AppArmor: boot with security=selinux and a policy, "+
		"or with apparmor=1 security=apparmor; mac = \"auto\" under [labels] takes it")
}

// checkProfiles says whether this host can give each sandbox its profile in AppArmor. Ready asks
// for the parser and the kernel's interface, both of which each start uses.
func (s *site) checkProfiles() []finding {
	// For example no parser is installed, or AppArmor is in complain mode as a whole.
	if err := s.profiles.Ready(); err != nil {
		return []finding{failed("AppArmor", err)}
	}
	return append([]finding{
		ok("AppArmor", "enforcing: each sandbox gets a profile of its own for QEMU and virtiofsd, or for its plain containers, "+
			"loaded for the start and read back"),
		// The shim stays unconfined on purpose: descriptors of a confined program are checked again
		// in the one that gets them.
		ok("shim", "not confined by a profile: what it opens for a sandbox keeps its rights in the sandbox"),
	}, s.lostProfiles()...)
}

// lostProfiles reads back whether the processes of sandboxes that run still have their profiles.
// AppArmor's own tools remove those that no file of /etc/apparmor.d names, libvirt's aside, and the
// kernel leaves the processes unconfined.
func (s *site) lostProfiles() []finding {
	const name = "profiles"
	boxes, err := s.sandboxes()
	if err != nil {
		return []finding{failed(name, err)}
	}
	var list []finding
	confined := 0
	for _, b := range boxes {
		profile := b.record.Facts["profile"]
		for _, e := range b.record.Effects {
			if alive, err := e.Process.Alive(); profile == "" || e.Kind != statedir.KindProcess || err != nil || !alive {
				continue
			}
			if _, err := s.profiles.Confined(e.Process.PID, apparmor.Child(profile, e.Path)); err == nil {
				confined++
			} else if alive, _ := e.Process.Alive(); alive {
				list = append(list, fail(name, fmt.Sprintf("sandbox %s, %s: %v", b.name(), e.Path, err),
					"start the sandbox again; run neither aa-remove-unknown nor aa-teardown while sandboxes run"))
			}
		}
	}
	if len(list) == 0 {
		list = append(list, ok(name, "%d processes of sandboxes that run are in theirs", confined))
	}
	return list
}

// strength says how strong the labels are on this host. Allowed by the config, permissive is a
// warning.
func strength(d *lsm.Driver) finding {
	if enforcing, err := d.Host().Enforcing(); err != nil || !enforcing {
		return warn("SELinux", d.Strength(), "setenforce 1")
	}
	return ok("SELinux", "%s; this program runs as %s", d.Strength(), d.OwnLabel())
}

// basePolicy names the policy that is loaded, its version, and what its pairs do not keep libvirt's
// guests from doing to each other: what cloister's own constraints add.
func (s *site) basePolicy() finding {
	version, err := os.ReadFile(filepath.Join(s.selinuxfs(), "policyvers"))
	if err != nil {
		return failed("policy", err)
	}
	text := fmt.Sprintf("%s, format %s", cmp.Or(policy.Configured(""), "of a name that is not configured"),
		strings.TrimSpace(string(version)))
	// A number that rises tells that somebody changes the policy while sandboxes run.
	if status, err := s.host.Status(); err == nil {
		text += fmt.Sprintf(", loaded %d times since boot", status.PolicyLoads)
	}
	// The base policy is only described: cloister's own types are constrained by cloister's module,
	// whatever the base leaves open.
	kernel := policy.Selinuxfs{Root: s.host.SELinux}
	for _, t := range []labels.Types{labels.ContainerKVM(), labels.Svirt(true)} {
		missing, err := policy.Unconstrained(kernel, policy.Of(t))
		switch {
		case err != nil: // this policy has no such types
			continue
		// The pairs of libvirt's types keep everything apart that is asked.
		case len(missing) == 0:
			return ok("policy", "%s; its category pairs separate all that cloister needs, for %s", text, t.QEMU)
		}
		return ok("policy", "%s; its category pairs do not stop %s from: %s; cloister's module constrains cloister's own types",
			text, t.QEMU, strings.Join(missing, ", "))
	}
	return ok("policy", "%s", text)
}

// selinuxfs is where the kernel's interface is; tests have another one.
func (s *site) selinuxfs() string { return cmp.Or(s.host.SELinux, "/sys/fs/selinux") }

// policyState says whether cloister's module is loaded, and is the one that this program carries.
// An old module could deny what this version needs.
func (s *site) policyState(ctx context.Context) []finding {
	state, err := policy.Store{}.State(ctx)
	switch {
	// The policy's tools are not on this host.
	case errors.Is(err, exec.ErrNotFound):
		return []finding{warn("module", err.Error(), "")}
	case err != nil:
		return []finding{warn("module", err.Error(), "run it as root")}
	// Both halves are installed in one transaction; one alone means that somebody removed the other
	// by hand.
	case state.Partial:
		return []finding{warn("module", "only one of cloister's two policy modules (rules, constraints) is installed",
			"cloister policy install")}
	case !state.Installed:
		return []finding{warn("module", "cloister's own policy module is not installed", "cloister policy install")}
	case !state.Current:
		return []finding{warn("module", "the installed policy module is not of this version of cloister", "cloister policy install")}
	}
	return []finding{ok("module", "installed and current")}
}

// domain asks the kernel, as the shim does before each start, which set of types a sandbox would
// get. It is the line that matters most: with all other lines ok, a start still fails here when no
// set of types passes the self-test.
func (s *site) domain(d *lsm.Driver) []finding {
	accel, _, err := qemu.DetectAccel(s.config.Machine.Accel, qemu.Host{})
	if err != nil {
		return []finding{failed("types", err)}
	}
	var paths [3]string
	for i, p := range s.programs()[:3] { // QEMU, virtiofsd, shim
		if paths[i], err = p.find(); err != nil {
			return []finding{failed("types", err)}
		}
	}
	// The shim's label depends on its file's label. This program's own domain may differ from the
	// shim's.
	shim, found := shimDomain(d, paths[2])
	// Types are chosen for QEMU with or without KVM: emulation writes code, which needs rights of
	// its own.
	t, err := confine.Types(d.As(shim), s.config.Labels, accel == vmm.AccelKVM, lsm.Programs{QEMU: paths[0], Virtiofsd: paths[1]})
	if err != nil {
		return []finding{found, fail("types", "no set of types keeps sandboxes apart: "+strings.ReplaceAll(err.Error(), "\n", "; "),
			"cloister policy install")}
	}
	return []finding{found, ok("types", "%s: QEMU in %s, virtiofsd in %s; the shim may start both, and two pairs are kept apart",
		t.Name, t.QEMU, t.Virtiofsd)}
}

// shimDomain is the label that the shim gets: its own domain's, if its file has the label that
// leads there, else this program's, it is assumed. A shim in another place has another label, runs
// in its starter's domain, and may not start guests then.
func shimDomain(d *lsm.Driver, path string) (labels.Label, finding) {
	const name = "shim's domain"
	own := d.OwnLabel()
	label, err := fileLabel(path)
	if err != nil {
		return own, failed(name, err)
	}
	if label.Type != policy.ShimExecType {
		return own, warn(name, fmt.Sprintf("%s is labelled %s, want type %s: the shim runs in the domain of the engine that starts it",
			path, label, policy.ShimExecType),
			"cloister policy install; for another place: chcon -t "+policy.ShimExecType+" "+quote(path))
	}
	return entered(own), ok(name, "%s leads to %s", path, policy.ShimType)
}

// entered is the label of a shim that a process under own starts: the kernel's transition keeps the
// user, leaves a login's role for the only one that has the domain, and drops the level.
func entered(own labels.Label) labels.Label {
	own = own.WithType(policy.ShimType).WithLevel(labels.Level{})
	own.Role = "system_r"
	return own
}

// fileLabel reads through a descriptor, so that file and label belong together.
func fileLabel(path string) (labels.Label, error) {
	f, err := os.Open(path)
	if err != nil {
		return labels.Label{}, err
	}
	defer f.Close()
	return lsm.FileLabel(f)
}

// boolean is one of the policies' switches. gates says what the switch opens when it is on.
type boolean struct{ name, gates string }

// booleans are those that the hardening guides name (R28, R29), which are about libvirt's domain
// svirt_t and container-selinux's, and those that let a daemon of the host reach files of every
// type. Cloister's own types have no switch.
func booleans() []boolean {
	return []boolean{
		{"antivirus_can_scan_system", "virus scanners may read all files of the host, guests' disks included"},
		{"nfs_export_all_ro", "the NFS server may read all files of the host, guests' disks included"},
		{"nfs_export_all_rw", "the NFS server may write all files of the host, guests' disks included"},
		{"puppet_manage_all_files", "puppet may write all files of the host, guests' disks included"},
		{"rsync_export_all_ro", "the rsync server may read all files of the host, guests' disks included"},
		{"samba_export_all_ro", "the Samba server may read all files of the host, guests' disks included"},
		{"samba_export_all_rw", "the Samba server may write all files of the host, guests' disks included"},
		{"staff_use_svirt", "staff users may run and reach confined guests"},
		{"unprivuser_use_svirt", "ordinary users may run and reach confined guests"},
		{"virt_sandbox_use_audit", "containers may write audit messages"},
		{"virt_sandbox_use_netlink", "containers may use netlink"},
		{"virt_sandbox_use_sys_admin", "containers may use CAP_SYS_ADMIN"},
		{"virt_transition_userdomain", "containers may become user domains"},
		{"virt_use_comm", "guests may use serial and parallel ports of the host"},
		{"virt_use_common", "guests may use the shared device class of older policies"},
		{"virt_use_execmem", "guests may have memory that is written and executed"},
		{"virt_use_fusefs", "guests may use files on FUSE"},
		{"virt_use_nfs", "guests may use files on NFS"},
		{"virt_use_rawip", "guests may use raw IP sockets"},
		{"virt_use_samba", "guests may use files on CIFS"},
		{"virt_use_sanlock", "guests may talk to sanlock"},
		{"virt_use_sysfs", "guests may change PCI devices in sysfs"},
		{"virt_use_usb", "guests may use USB devices"},
		{"virt_use_xserver", "guests may talk to the X server"},
	}
}

// checkBooleans warns about each switch that is on. Somebody may want it; the warning says what it
// opens for guests or for programs that could read them.
func checkBooleans(_ context.Context, s *site) []finding {
	enabled, err := s.host.Enabled()
	if err != nil || !enabled {
		// Under AppArmor and without either there are no booleans.
		return []finding{ok("all", "not asked: SELinux is not enabled")}
	}
	var list []finding
	for _, b := range booleans() {
		value, known, err := s.host.Boolean(b.name)
		switch {
		case err != nil:
			list = append(list, warn(b.name, err.Error(), "run it as root"))
		// Not in this policy: it cannot be on either.
		case !known:
			list = append(list, ok(b.name, "not in this policy (%s)", b.gates))
		case value:
			list = append(list, warn(b.name, "on: "+b.gates, "unless it is wanted: setsebool -P "+b.name+" off"))
		default:
			list = append(list, ok(b.name, "off (%s)", b.gates))
		}
	}
	return list
}
