// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"cloister/labels/policy"
)

// file is one file of the second disk.
type file struct {
	path string // in the disk
	from string // on the host
	kind string // its type; bin_t if empty
}

// programs builds the lab's own programs and says where they go: one program under several labels,
// since it is the file that is the entrance to a domain.
func programs(ctx context.Context, work string) ([]file, error) {
	for name, path := range map[string]string{
		"guest": "tests/lab/guest", "probe": "tests/lab/probe", "attacker": "tests/machine/fileserver/attacker",
		"holdguest": "tests/hostmachine/holdguest",
	} {
		cmd := []string{"CGO_ENABLED=0", "go", "build", "-trimpath", "-o", filepath.Join(work, name), "cloister/" + path}
		if err := tool(ctx, "env", cmd...); err != nil {
			return nil, err
		}
	}
	for name, path := range map[string]string{"labels.test": "labels", "fileserver.test": "tests/machine/fileserver"} {
		cmd := []string{"CGO_ENABLED=0", "go", "test", "-c", "-trimpath", "-o", filepath.Join(work, name), "cloister/" + path}
		if err := tool(ctx, "env", cmd...); err != nil {
			return nil, err
		}
	}
	guest, probe := filepath.Join(work, "guest"), filepath.Join(work, "probe")
	return []file{
		{"bin/labinit", guest, "init_exec_t"},
		{"bin/labd", guest, "bin_t"},
		{"bin/holdguest", filepath.Join(work, "holdguest"), "bin_t"},
		{"bin/enter-shim", guest, policy.ShimExecType},
		{"bin/enter-runtime", guest, "bin_t"},
		{"bin/labels.test", filepath.Join(work, "labels.test"), policy.ShimExecType},
		{"bin/fileserver.test", filepath.Join(work, "fileserver.test"), policy.ShimExecType},
		{"probe/attacker", filepath.Join(work, "attacker"), policy.VirtiofsdExecType},
		{"probe/probe-qemu", probe, "qemu_exec_t"},
		{"probe/probe-virtiofsd", probe, policy.VirtiofsdExecType},
		{"probe/probe-container", probe, policy.ContainerFileType},
		{"probe/probe-plain", probe, "bin_t"},
		{"probe/probe-other", probe, "httpd_exec_t"},
		{"probe/probe-shell", probe, "shell_exec_t"},
		{"probe/probe-shim", probe, policy.ShimExecType},
	}, nil
}

// files are the compiled policies, and what they are made from.
func (p policies) files() []file {
	return []file{
		{"policy/policy", p.enforcing(), "semanage_store_t"},
		{"policy/permissive", p.permissive(), "semanage_store_t"},
		{"policy/base", p.base(), "semanage_store_t"},
		{"policy/probing", p.probing(), "semanage_store_t"},
		{"policy/proving", p.proving(), "semanage_store_t"},
		{"policy/store.tar", p.store(), "semanage_store_t"},
	}
}

// makeDisk makes the second disk of the given files.
func makeDisk(ctx context.Context, work string, files []file) (string, error) {
	tree := filepath.Join(work, "disk")
	for _, f := range files {
		to := filepath.Join(tree, f.path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := tool(ctx, "cp", "-L", f.from, to); err != nil {
			return "", err
		}
		kind := f.kind
		if kind == "" {
			kind = "bin_t"
		}
		if err := unix.Lsetxattr(to, "security.selinux", []byte("system_u:object_r:"+kind+":s0"), 0); err != nil {
			return "", fmt.Errorf("label %s: %w", to, err)
		}
	}
	err := filepath.WalkDir(tree, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return unix.Lsetxattr(path, "security.selinux", []byte("system_u:object_r:usr_t:s0"), 0)
	})
	if err != nil {
		return "", err
	}
	image := filepath.Join(work, "disk.ext4")
	return image, tool(ctx, "mke2fs", "-q", "-t", "ext4", "-d", tree, image, "1000M")
}

// makeInitrd makes the initial image: the lab's program as init, and the kernel's modules.
func makeInitrd(work string, r root) (string, error) {
	init, err := os.ReadFile(filepath.Join(work, "guest"))
	if err != nil {
		return "", err
	}
	records := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1), cpio.Directory("proc", 0o755), cpio.Directory("sys", 0o755),
		cpio.Directory("root", 0o755), cpio.Directory("modules", 0o755), cpio.StaticFile("init", string(init), 0o755),
	}
	entries, err := os.ReadDir(r.modules())
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(r.modules(), entry.Name()))
		if err != nil {
			return "", err
		}
		records = append(records, cpio.StaticFile("modules/"+entry.Name(), string(text), 0o644))
	}
	path := filepath.Join(work, "initrd")
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Close() }()
	writer := cpio.Newc.Writer(out)
	if err := cpio.WriteRecords(writer, records); err != nil {
		return "", err
	}
	return path, cpio.WriteTrailer(writer)
}
