// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ErrModule is wrapped when the kernel lacks a module the guest needs. The build fails then, and
// not each guest.
var ErrModule = errors.New("kernel module not found")

// bootModules are what the agent loads before it greets the host, the channel to the host first:
// virtio_pci on a q35, virtio_mmio on a microvm. Names are those of modprobe.
func bootModules() []string {
	return []string{
		"virtio_pci", "virtio_mmio", "virtio_console", "virtio_scsi", "sd_mod",
		"virtiofs", "overlay", "ext4", "virtio_net", "virtio_rng", "virtio_balloon",
		"unix", "af_packet",
	}
}

// diskModules are loaded at boot too, where the kernel has them: some distributions keep them in a
// package that need not be there.
func diskModules() []string { return []string{"erofs"} }

// lateModules are what containers may ask for; those the kernel lacks are left out. Most are what
// iptables, nftables and container engines in a container need.
func lateModules() []string {
	return []string{
		"loop", "squashfs", "xfs", "binfmt_misc", "tun", "veth", "bridge", "br_netfilter", "dummy", "macvlan", "ipvlan",
		"8021q", "vxlan", "nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nft_chain_nat", "nft_ct", "nft_nat",
		"nft_masq", "nft_redir", "nft_reject_inet", "nft_limit", "nft_log", "nft_compat", "nft_fib_inet", "nft_hash", "nft_numgen",
		"nft_tproxy", "nft_socket", "nf_log_syslog", "ip_tables", "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw",
		"ip6_tables", "ip6table_filter", "ip6table_nat", "ip6table_mangle", "ip6table_raw", "ipt_REJECT", "ip6t_REJECT",
		"xt_MASQUERADE", "xt_REDIRECT", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark", "xt_multiport", "xt_nat",
		"xt_state", "xt_tcpudp", "xt_LOG", "xt_CHECKSUM", "xt_TCPMSS", "xt_TPROXY", "xt_owner", "xt_limit", "xt_recent",
		"xt_statistic", "xt_set", "ip_set_hash_ip", "ip_set_hash_net", "sch_tbf", "sch_htb", "sch_fq_codel", "sch_ingress",
		"cls_u32", "cls_bpf", "act_mirred", "inet_diag", "tcp_diag", "udp_diag", "unix_diag",
	}
}

// moduleTable is what depmod knows of one kernel's modules.
type moduleTable struct {
	// file is a module's path below the modules folder, by name.
	file map[string]string
	// needs are the paths a path needs, its nearest need first.
	needs map[string][]string
	// builtin holds the names of what is in the kernel itself.
	builtin map[string]bool
}

// parseModules reads modules.dep and modules.builtin, which depmod and the kernel's build have
// written.
func parseModules(dep, builtin []byte) (moduleTable, error) {
	t := moduleTable{file: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	for s := bufio.NewScanner(bytes.NewReader(dep)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" {
			continue
		}
		file, needs, ok := strings.Cut(line, ":")
		if !ok || !localPath(file) {
			return moduleTable{}, fmt.Errorf("modules.dep: bad line %q", line)
		}
		t.file[moduleName(file)] = file
		t.needs[file] = strings.Fields(needs)
	}
	for s := bufio.NewScanner(bytes.NewReader(builtin)); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			t.builtin[moduleName(line)] = true
		}
	}
	if _, ok := t.file["unix"]; !ok {
		t.builtin["unix"] = true // since Linux 6.4 it cannot be a module, and the lists do not name what cannot
	}
	return t, nil
}

// localPath tells whether a path stays below its folder: modules.dep of a foreign root names files
// that are read.
func localPath(file string) bool {
	return file != "" && !path.IsAbs(file) && path.Clean(file) == file && file != ".." && !strings.HasPrefix(file, "../")
}

// moduleName is what modprobe calls a file: no folder, no endings, and one spelling of the blank.
// File names have dashes or underscores, and the kernel takes both for the same.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order returns the paths of the named modules and all they need, in load order. Unless all must be
// there, names the kernel lacks are left out. done has what earlier calls have given, and grows.
func (t moduleTable) order(names []string, all bool, done map[string]bool) ([]string, error) {
	var out []string
	for _, name := range names {
		name = moduleName(name)
		file, ok := t.file[name]
		if !ok && all && !t.builtin[name] {
			return nil, fmt.Errorf("%w: %s", ErrModule, name)
		}
		if !ok {
			continue
		}
		// modules.dep lists the nearest need first; the farthest must be loaded first.
		needs := t.needs[file]
		for _, need := range slices.Backward(needs) {
			if !localPath(need) {
				return nil, fmt.Errorf("modules.dep: %s needs %q", file, need)
			}
			if !done[need] {
				done[need] = true
				out = append(out, need)
			}
		}
		if !done[file] {
			done[file] = true
			out = append(out, file)
		}
	}
	return out, nil
}

// asked says of late modules, given as paths in load order, what they need of each other and by
// which names the kernel asks for them. Modules of the boot are nobody's need.
func (t moduleTable) asked(late []string, aliases, soft map[string][]string) []lateModule {
	there := map[string]bool{}
	for _, file := range late {
		there[moduleName(file)] = true
	}
	var out []lateModule
	for _, file := range late {
		name := moduleName(file)
		l := lateModule{File: name + ".ko", Names: aliases[name]}
		add := func(need string) {
			if need != name && there[need] && !slices.Contains(l.Needs, need) {
				l.Needs = append(l.Needs, need)
			}
		}
		for _, need := range slices.Backward(t.needs[file]) {
			add(moduleName(need))
		}
		for _, need := range soft[name] {
			add(need)
		}
		out = append(out, l)
	}
	return out
}

// parseAliases reads modules.alias: the names that the kernel asks for, by module. They are
// patterns, as of a shell. One that has a bar or is no text is left out: a bar parts the fields of
// the guest's list.
func parseAliases(text []byte) map[string][]string {
	aliases := map[string][]string{}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) == 3 && f[0] == "alias" && !strings.ContainsFunc(f[1], func(r rune) bool { return r == '|' || r <= ' ' || r > '~' }) {
			name := moduleName(f[2])
			aliases[name] = append(aliases[name], f[1])
		}
	}
	return aliases
}

// parseSoft reads modules.softdep: what is to be loaded before a module that works without it in
// part.
func parseSoft(text []byte) map[string][]string {
	soft := map[string][]string{}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		name, before := moduleName(f[1]), false
		for _, word := range f[2:] {
			if word == "pre:" || word == "post:" {
				before = word == "pre:"
			} else if before {
				soft[name] = append(soft[name], moduleName(word))
			}
		}
	}
	return soft
}
