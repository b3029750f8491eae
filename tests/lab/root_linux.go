// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"cloister/sys"
	"cloister/tests/cache"
)

// recipe is what the root is made of. A change gives it another place in the cache.
type recipe struct {
	suite    string
	packages []string
	modules  []string // with their dependencies, in this order
	sizeMiB  int
	form     int // counted up when the way of making changes
}

func labRecipe() recipe {
	return recipe{
		suite: "bookworm",
		packages: []string{
			"linux-image-cloud-amd64", "selinux-policy-default", "policycoreutils", "selinux-utils",
			"checkpolicy", "semodule-utils", "apparmor",
			"qemu-system-x86", "containerd", "runc", "crun", "busybox-static", "iproute2", "procps", "kmod", "e2fsprogs", "iptables",
			"podman", "conmon", "netavark", // it is netavark that debootstrap does not find by itself
		},
		modules: []string{
			"virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "tun", "loop", "overlay", "veth", "bridge",
			"sch_ingress", "cls_u32", "act_mirred", "kvm_amd?nested=1",
		},
		sizeMiB: 3000,
		form:    1,
	}
}

func (r recipe) digest() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", r))
	return hex.EncodeToString(sum[:8])
}

// root is the folder of a root that was made: a file system image, the kernel and its modules, and
// the policy store that images are labelled by.
type root struct{ dir string }

func (r root) kernel() string  { return filepath.Join(r.dir, "vmlinuz") }
func (r root) image() string   { return filepath.Join(r.dir, "root.ext4") }
func (r root) modules() string { return filepath.Join(r.dir, "modules") }
func (r root) store() string   { return filepath.Join(r.dir, "store") }

// makeRoot returns the root from the cache, and makes it when it is not there. That takes some
// minutes, and the network.
func makeRoot(ctx context.Context, folder string, r recipe) (root, error) {
	made := root{filepath.Join(folder, "lab", "root-"+r.digest())}
	return made, cache.Make(made.dir, func() error { return makeRootInto(ctx, r, made) })
}

func makeRootInto(ctx context.Context, r recipe, made root) error {
	work, err := os.MkdirTemp(filepath.Dir(made.dir), ".root-")
	if err != nil {
		return err
	}
	defer func() { _ = sys.RemoveTree(work) }() // a killed debootstrap leaves /proc mounted
	tree, parts := filepath.Join(work, "tree"), root{filepath.Join(work, "parts")}
	if err := os.Mkdir(parts.dir, 0o755); err != nil {
		return err
	}
	if err := tool(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(r.packages, ","), r.suite, tree); err != nil {
		return err
	}
	if err := takeParts(ctx, r, tree, parts); err != nil {
		return err
	}
	if err := makeImage(ctx, r, tree, parts); err != nil {
		return err
	}
	return os.Rename(parts.dir, made.dir)
}

// takeParts copies what the host needs of the tree.
func takeParts(ctx context.Context, r recipe, tree string, parts root) error {
	kernels, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("kernels of the root: %q, want one: %w", kernels, err)
	}
	if err := tool(ctx, "cp", kernels[0], parts.kernel()); err != nil {
		return err
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := takeModules(ctx, r, filepath.Join(tree, "lib", "modules", version), parts.modules()); err != nil {
		return err
	}
	for _, dir := range []string{"var/lib/selinux", "etc/selinux"} {
		target := filepath.Join(parts.store(), filepath.Dir(dir))
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := tool(ctx, "cp", "-a", filepath.Join(tree, dir), target); err != nil {
			return err
		}
	}
	return nil
}

// takeModules copies modules and a list of them, in an order that loads.
func takeModules(ctx context.Context, r recipe, from, to string) error {
	text, err := os.ReadFile(filepath.Join(from, "modules.dep"))
	if err != nil {
		return err
	}
	needs := map[string][]string{} // name -> paths, itself last
	for line := range bytes.Lines(text) {
		path, rest, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		deps := strings.Fields(rest)
		slices.Reverse(deps)
		needs[moduleName(path)] = append(deps, path)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	var list []string
	for _, wanted := range r.modules {
		name, parameters, _ := strings.Cut(wanted, "?")
		for i, path := range needs[name] {
			entry := filepath.Base(path)
			if parameters != "" && i == len(needs[name])-1 {
				entry += "?" + parameters
			}
			if slices.Contains(list, entry) {
				continue
			}
			list = append(list, entry)
			if err := tool(ctx, "cp", filepath.Join(from, path), to); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(to, "list"), []byte(strings.Join(list, "\n")+"\n"), 0o644)
}

func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// makeImage labels the tree from outside, as the installed policy says, and makes it a file system
// image.
func makeImage(ctx context.Context, r recipe, tree string, parts root) error {
	for _, dir := range []string{"var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"} {
		if err := os.RemoveAll(filepath.Join(tree, dir)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(tree, "lab"), 0o755); err != nil {
		return err
	}
	contexts := filepath.Join(tree, "etc/selinux/default/contexts/files/file_contexts")
	if err := tool(ctx, "setfiles", "-F", "-r", tree, contexts, tree); err != nil {
		return err
	}
	return tool(ctx, "mke2fs", "-q", "-t", "ext4", "-d", tree, parts.image(), fmt.Sprintf("%dM", r.sizeMiB))
}

// tool runs a program of the host, after everybody else.
func tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, "nice", append([]string{name}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, tail(out))
	}
	return nil
}

// tail is the end of a long output.
func tail(out []byte) string {
	if len(out) > 2000 {
		out = out[len(out)-2000:]
	}
	return strings.TrimSpace(string(out))
}
