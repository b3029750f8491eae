// SPDX-License-Identifier: Apache-2.0

// Command guest is process 1 of the machines that tests start: it does on the
// agent's port what each line it reads there says.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const mountPoint = "/mnt"

// held is text that the host has given this guest, some 250 pages of it.
var held string

func main() {
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	// Process 1 that returns is a panic; by then the test is over.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ fs, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	loadModules()
	port, err := openPort("io.cloister.agent")
	if err != nil {
		return err
	}
	uptime, _ := os.ReadFile("/proc/uptime")
	fmt.Fprintf(port, "hello uptime %s\n", strings.Fields(string(uptime))[0])
	lines := bufio.NewScanner(port)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		out, err := do(words[0], words[1:])
		if err != nil {
			out = "error: " + err.Error()
		}
		fmt.Fprintf(port, "%s\n", strings.TrimSpace(strings.ReplaceAll(out, "\n", ";")))
	}
	return lines.Err()
}

// loadModules loads what /modules.txt names, one path a line, in order.
func loadModules() {
	list, _ := os.ReadFile("/modules.txt")
	for path := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Println("guest: module", path, err)
		}
	}
}

func openPort(name string) (*os.File, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, n := range names {
		if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no port %s among %q", name, names)
}

func do(verb string, args []string) (string, error) {
	switch verb {
	case "echo":
		return strings.Join(args, " "), nil
	case "poweroff":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		os.Exit(1) // which process 1 must not
	case "spam":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		for i := range n {
			fmt.Printf("spam %d %s\n", i, strings.Repeat("x", 100))
		}
		// Wait until it is out: the end of the machine would cut it off.
		return "spammed", unix.IoctlSetInt(1, unix.TCSBRK, 1)
	case "mem":
		b, err := os.ReadFile("/proc/meminfo")
		return strings.Join(strings.Split(string(b), "\n")[:3], "\n"), err
	case "hold":
		held = strings.Repeat(args[0], 1<<20)
		return "held", nil
	case "held":
		return held[:1] + " " + strconv.Itoa(strings.Count(held, held[:1])), nil
	case "readdisk":
		return readDisk(args[0])
	case "writedisk":
		return "written", writeDisk(args[0], args[1])
	case "cpus":
		online, err := os.ReadFile("/sys/devices/system/cpu/online")
		return fmt.Sprintf("%s %d", bytes.TrimSpace(online), runtime.NumCPU()), err
	case "lookups":
		return manyTimes(args, lookups)
	case "reads":
		return manyTimes(args[1:], reads(args[0]))
	case "datagrams":
		return manyTimes(args, datagrams)
	case "small":
		return smallFiles(args)
	case "walk":
		return walk(args[0])
	case "as":
		return asUser(args)
	case "folder":
		return folder(args[0])
	case "links", "disks", "balloon", "mount", "again":
		return device(verb, args)
	}
	return file(verb, args)
}

// device does what concerns devices as a whole.
func device(verb string, args []string) (string, error) {
	switch verb {
	case "links":
		return links()
	case "disks":
		return disks()
	case "balloon":
		return hostile(args)
	case "again":
		return "mounted", mount(args[1], args[0])
	}
	return "mounted", mount(mountPoint, args[0], args[1:]...)
}

// links lists the NICs that are devices.
func links() (string, error) {
	dirs, err := filepath.Glob("/sys/class/net/*")
	var out []string
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "device")); err != nil {
			continue
		}
		if err := up(filepath.Base(d)); err != nil {
			return "", err
		}
		var fields []string
		for _, f := range []string{"address", "mtu", "carrier"} {
			b, _ := os.ReadFile(filepath.Join(d, f))
			fields = append(fields, strings.TrimSpace(string(b)))
		}
		out = append(out, strings.Join(fields, " "))
	}
	return strings.Join(out, "\n"), err
}

// up takes a NIC up, without which it tells no carrier.
func up(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// disks lists the SCSI disks by address, size in sectors, read-only.
func disks() (string, error) {
	dirs, err := filepath.Glob("/sys/class/scsi_disk/*/device/block/*")
	var out []string
	for _, d := range dirs {
		size, _ := os.ReadFile(filepath.Join(d, "size"))
		ro, _ := os.ReadFile(filepath.Join(d, "ro"))
		lun := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(d))))
		out = append(out, fmt.Sprintf("%s %s %s", lun[strings.LastIndex(lun, ":")+1:], bytes.TrimSpace(size), bytes.TrimSpace(ro)))
	}
	return strings.Join(out, "\n"), err
}

func diskPath(lun string) (string, error) {
	dirs, _ := filepath.Glob("/sys/class/scsi_disk/*:" + lun + "/device/block/*")
	if len(dirs) != 1 {
		return "", fmt.Errorf("lun %s: %q", lun, dirs)
	}
	return "/dev/" + filepath.Base(dirs[0]), nil
}

func mount(at, tag string, options ...string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return unix.Mount(tag, at, "virtiofs", 0, strings.Join(options, ","))
}

// manyTimes has threads do something that waits for an interrupt, each so often: args are both
// numbers. one is called in each thread with the thread's number.
func manyTimes(args []string, one func(thread, times int) error) (string, error) {
	threads, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	times, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	failed := make([]error, threads)
	var all sync.WaitGroup
	for i := range threads {
		all.Go(func() { failed[i] = one(i, times) })
	}
	all.Wait()
	return fmt.Sprintf("%d done", threads*times), errors.Join(failed...)
}

// lookups looks for names that the share does not have. The kernel keeps no such answer: each one
// is a request to the file server.
func lookups(thread, times int) error {
	var st unix.Stat_t
	for i := range times {
		if err := unix.Lstat(filepath.Join(mountPoint, fmt.Sprintf("none.%d.%d", thread, i%2000)), &st); !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("lookup %d: %w", i, err)
		}
	}
	return nil
}

func readDisk(lun string) (string, error) {
	path, err := diskPath(lun)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 512)
	n, err := f.Read(b)
	return string(bytes.TrimRight(b[:n], "\x00")), err
}

func writeDisk(lun, text string) error {
	path, err := diskPath(lun)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append([]byte(text), make([]byte, 512-len(text))...))
	return err
}

// file does what concerns one file of the share.
func file(verb string, args []string) (string, error) {
	path := filepath.Join(mountPoint, args[0])
	switch verb {
	case "cat":
		b, err := os.ReadFile(path)
		return string(b), err
	case "put":
		return "put", os.WriteFile(path, []byte(args[1]), 0o644)
	case "ls":
		entries, err := os.ReadDir(path)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	case "symlink":
		return "linked", os.Symlink(args[1], path)
	case "chown":
		uid, _ := strconv.Atoi(args[1])
		return "owned", os.Chown(path, uid, uid)
	case "mknod":
		return "made", unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))
	case "setxattr":
		return "set", unix.Setxattr(path, args[1], []byte(args[2]), 0)
	case "listxattr":
		b := make([]byte, 4096)
		n, err := unix.Listxattr(path, b)
		return strings.ReplaceAll(string(b[:max(n, 0)]), "\x00", " "), err
	case "dev":
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		return strconv.FormatUint(st.Dev, 10), err
	}
	return "", fmt.Errorf("what is %q?", verb)
}
