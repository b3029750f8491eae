// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// disk is where the second disk is mounted in the root.
const disk = "/lab"

// boot is process 1 of the initial image: modules, disks, root, policy; then it goes on as labinit,
// in init's domain.
func boot() error {
	for _, m := range []mount{
		{"devtmpfs", "/dev", "devtmpfs", ""}, {"proc", "/proc", "proc", ""}, {"sysfs", "/sys", "sysfs", ""},
	} {
		if err := m.make(); err != nil {
			return err
		}
	}
	if err := modules("/modules"); err != nil {
		return err
	}
	for _, m := range []mount{{"/dev/vda", "/root", "ext4", ""}, {"/dev/vdb", "/root" + disk, "ext4", ""}} {
		if err := m.wait(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, "/root"+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	for _, m := range []mount{
		{"securityfs", "/sys/kernel/security", "securityfs", ""},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"devpts", "/dev/pts", "devpts", "ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""},
		{"bpf", "/sys/fs/bpf", "bpf", ""},
	} {
		if err := m.make(); err != nil {
			return err
		}
	}
	if err := shareKVM(); err != nil {
		return err
	}
	if err := exec.CommandContext(context.Background(), disk+"/bin/holdguest").Start(); err != nil {
		return err
	}
	if err := enforce(); err != nil {
		return err
	}
	// The file's type is the entrance: the policy takes the kernel's process 1 from it to init's
	// domain.
	return unix.Exec(disk+"/bin/labinit", []string{"labinit"}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"})
}

// enforce loads SELinux's policy, if the kernel was started with it.
func enforce() error {
	const folder = "/sys/fs/selinux"
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := (mount{"selinuxfs", folder, "selinuxfs", ""}).make(); err != nil {
		return err
	}
	return errors.Join(loadPolicy(disk+"/policy/policy"), labelEarly())
}

// loadPolicy gives the kernel a compiled policy.
func loadPolicy(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	file, err := os.OpenFile("/sys/fs/selinux/load", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Write(text); err != nil { // in one write, the kernel asks for that
		return fmt.Errorf("load policy: %w", err)
	}
	return nil
}

// kvmGroup stands for the group kvm: any but root's.
const kvmGroup = 993

// shareKVM gives /dev/kvm to a group, as udev's rules do: QEMU opens it as a user of its own.
func shareKVM() error {
	err := os.Chown("/dev/kvm", 0, kvmGroup)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.Chmod("/dev/kvm", 0o660))
}

// labelEarly labels what was made before the policy was there, as restorecon would: a tmpfs has no
// contexts of its own.
func labelEarly() error {
	for path, t := range map[string]string{
		"/run": "var_run_t", "/tmp": "tmp_t", "/dev": "device_t", "/dev/kvm": "kvm_device_t", "/dev/null": "null_device_t",
		"/dev/zero": "zero_device_t", "/dev/full": "null_device_t", "/dev/random": "random_device_t", "/dev/urandom": "urandom_device_t",
		"/dev/tty": "devtty_t", "/dev/mem": "memory_device_t", "/dev/port": "memory_device_t", "/dev/kmsg": "kmsg_device_t",
		"/dev/net/tun": "tun_tap_device_t", "/dev/vda": "fixed_disk_device_t", "/dev/vdb": "fixed_disk_device_t",
		"/dev/ttyS0": "tty_device_t", "/dev/console": "console_device_t", "/dev/fuse": "fuse_device_t", "/dev/vhost-net": "vhost_device_t",
		"/dev/shm": "tmpfs_t", "/dev/loop-control": "loop_control_device_t", "/dev/ptmx": "ptmx_t", "/dev/vhost-vsock": "vhost_device_t",
	} {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if err := setContext(path, "system_u:object_r:"+t+":s0"); err != nil {
			return err
		}
	}
	loops, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return err
	}
	for _, path := range loops {
		if err := setContext(path, "system_u:object_r:fixed_disk_device_t:s0"); err != nil {
			return err
		}
	}
	return nil
}

func setContext(path, context string) error {
	if err := unix.Lsetxattr(path, "security.selinux", []byte(context), 0); err != nil {
		return fmt.Errorf("label %s %s: %w", path, context, err)
	}
	return nil
}

// watch is process 1 from then on: it starts the service, buries orphans, and switches off when the
// service ends.
func watch() error {
	cmd := exec.CommandContext(context.Background(), disk+"/bin/labd")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == cmd.Process.Pid {
			break
		}
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// mount is one mount of the start.
type mount struct{ source, target, kind, data string }

func (m mount) make() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, 0, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.source, m.target, err)
	}
	return nil
}

// wait mounts a disk once the kernel has found it.
func (m mount) wait() error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := os.Stat(m.source)
		if err == nil {
			return m.make()
		}
		if time.Now().After(deadline) {
			return err
		}
		pause()
	}
}

func pause() {
	ts := unix.NsecToTimespec(int64(20 * time.Millisecond))
	_ = unix.Nanosleep(&ts, nil)
}

// modules loads the modules of a folder in the order that its list gives, with the parameters that
// it gives and those on the kernel's line.
func modules(dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, "list"))
	if err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for name := range bytes.FieldsSeq(list) {
		file, given, _ := strings.Cut(string(name), "?")
		parameters := strings.Split(given, ",")
		prefix := strings.ReplaceAll(strings.TrimSuffix(file, ".ko"), "-", "_") + "."
		for word := range bytes.FieldsSeq(line) {
			if parameter, found := strings.CutPrefix(string(word), prefix); found {
				parameters = append(parameters, parameter)
			}
		}
		if err := module(filepath.Join(dir, file), strings.Join(parameters, " ")); err != nil {
			return err
		}
	}
	return nil
}

func module(path, parameters string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := unix.FinitModule(int(file.Fd()), parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}
