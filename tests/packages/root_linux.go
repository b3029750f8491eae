// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"cloister/sys"
	"cloister/tests/cache"
)

// recipe is what a root is made of. A change gives it another place in the cache.
type recipe struct {
	suite    string
	packages []string
	finish   string // a script in the new root
	sizeMiB  int
}

// finish leaves a Debian on which nothing but the unit of the test runs, once it has started.
const finish = `
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
passwd -d root
echo /dev/vda / ext4 defaults 0 0 >/etc/fstab
echo throwaway >/etc/hostname
printf 'loop\noverlay\nkvm_amd\n' >/etc/modules-load.d/life.conf
systemctl mask serial-getty@ttyS0.service getty.target systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer
cat >/etc/systemd/system/life.service <<END
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
Environment=HOME=/root
ExecStart=/bin/sh -c 'mkdir -p /life && tar -xf /dev/vdb -C /life && sh /life/life.sh'
ExecStopPost=systemctl --no-block poweroff
[Install]
WantedBy=graphical.target
END
systemctl enable life.service
systemctl set-default graphical.target
`

func debian(suite string) recipe {
	list := []string{
		"linux-image-cloud-amd64", "systemd-sysv", "udev", "kmod", "procps", "iproute2",
		"qemu-system-x86", "containerd", "busybox-static", "apparmor",
	}
	if suite != "bookworm" { // there it is in qemu-system-common
		list = append(list, "virtiofsd")
	}
	return recipe{suite, list, finish, 2500}
}

// root is a made root: a file system image, the kernel, and an initial image that mounts it.
type root struct{ dir string }

func (r root) kernel() string { return filepath.Join(r.dir, "vmlinuz") }
func (r root) initrd() string { return filepath.Join(r.dir, "initrd") }
func (r root) image() string  { return filepath.Join(r.dir, "root.ext4") }

// makeRoot gives the root from the cache, and makes it when it is not there: some minutes, and the
// network.
func makeRoot(ctx context.Context, folder string, r recipe) (root, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v %s", r, initScript))
	made := root{filepath.Join(folder, "packages", r.suite+"-"+hex.EncodeToString(sum[:8]))}
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
	for _, command := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + strings.Join(r.packages, ","), r.suite, tree},
		{"chroot", tree, "sh", "-ec", r.finish},
	} {
		if err := tool(ctx, "", command...); err != nil {
			return err
		}
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("kernels of the root: %q, want one: %w", kernels, err)
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := tool(ctx, "", "cp", kernels[0], parts.kernel()); err != nil {
		return err
	}
	if err := makeInitrd(ctx, tree, version, parts.initrd()); err != nil {
		return err
	}
	if err := tool(ctx, "", "mke2fs", "-q", "-t", "ext4", "-d", tree, parts.image(), fmt.Sprintf("%dM", r.sizeMiB)); err != nil {
		return err
	}
	return os.Rename(parts.dir, made.dir)
}

// initScript is process 1 until the root is mounted.
const initScript = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in %s; do /bin/busybox insmod /$module; done
tries=0
until [ -b /dev/vda ] || [ $tries = 300 ]; do /bin/busybox usleep 20000; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
`

// makeInitrd packs busybox and what the kernel lacks to see the disk: the rest is udev's to load.
func makeInitrd(ctx context.Context, tree, version, to string) error {
	shell, err := os.ReadFile(filepath.Join(tree, "bin", "busybox"))
	if err != nil {
		return err
	}
	records := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1), cpio.Directory("root", 0o755),
		cpio.Directory("bin", 0o755), cpio.StaticFile("bin/busybox", string(shell), 0o755),
	}
	modules, err := closure(filepath.Join(tree, "lib", "modules", version), "virtio_pci", "virtio_blk", "ext4")
	if err != nil {
		return err
	}
	var names []string
	for _, path := range modules {
		data, err := os.ReadFile(path)
		if strings.HasSuffix(path, ".xz") {
			data, err = exec.CommandContext(ctx, "xz", "-dc", path).Output()
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".xz")
		names = append(names, name)
		records = append(records, cpio.StaticFile(name, string(data), 0o644))
	}
	script := fmt.Sprintf(initScript, strings.Join(names, " "))
	records = append(records, cpio.StaticFile("init", script, 0o755))
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	writer := cpio.Newc.Writer(out)
	return errors.Join(cpio.WriteRecords(writer, records), cpio.WriteTrailer(writer), out.Close())
}

// closure lists the files of modules and of what they need, in an order that loads. A module that
// is not there is built into the kernel.
func closure(folder string, names ...string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(folder, "modules.dep"))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, name := range names {
		for line := range strings.Lines(string(text)) {
			path, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			file, _, _ := strings.Cut(filepath.Base(path), ".ko")
			if strings.ReplaceAll(file, "-", "_") != name {
				continue
			}
			needs := strings.Fields(rest)
			slices.Reverse(needs)
			for _, need := range append(needs, path) {
				if full := filepath.Join(folder, need); !slices.Contains(list, full) {
					list = append(list, full)
				}
			}
		}
	}
	return list, nil
}

// tool runs a program of the host, after everybody else.
func tool(ctx context.Context, dir string, command ...string) error {
	cmd := exec.CommandContext(ctx, "nice", command...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command[0], err, tail(out))
	}
	return nil
}

// tail is the end of a long output.
func tail(out []byte) string {
	return strings.TrimSpace(string(out[max(0, len(out)-4000):]))
}
