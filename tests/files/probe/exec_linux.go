// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// whoami tells the effective user, group and capabilities of this process.
func whoami() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return seen(err)
	}
	caps := ""
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps = strings.TrimLeft(strings.TrimSpace(v), "0")
		}
	}
	return fmt.Sprintf("%d:%d caps=%s", os.Geteuid(), os.Getegid(), caps)
}

// install copies this program, which is small enough, to name.
func install(name string) {
	from, err := os.Open("/proc/self/exe")
	with(err)
	defer from.Close()
	to := file(name, unix.O_CREAT|unix.O_WRONLY)
	_, err = io.Copy(to, from)
	with(err, to.Close(), unix.Chmod(name, 0o755))
}

// runP runs p, a copy of this program, as a user who owns nothing, and has it tell who it is then.
func runP() string {
	cmd := command("./p", "user")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	return secondOf(cmd)
}

func execCases() []check {
	return []check{
		{"exec.plain", func() string {
			install("p")
			return seen(runP(), unix.Chmod("p", 0o644), runP(), unix.Chmod("p", 0o700), runP(), unix.Chmod("p", 0o711), runP())
		}},
		{"exec.script", func() string {
			install("p")
			with(write("script", "#!"+cwd()+"/p user\n"), unix.Chmod("script", 0o755))
			return secondOf(command("./script"))
		}},
		{"exec.suid", func() string {
			install("p")
			with(os.Chown("p", 2000, 2001), unix.Chmod("p", 0o4755))
			uid := runP()
			with(unix.Chmod("p", 0o2755))
			gid := runP()
			with(os.Chown("p", 0, 0), unix.Chmod("p", 0o4755))
			return seen(uid, gid, strings.Fields(runP())[0])
		}},
		{"exec.suid-lost", func() string {
			install("p")
			with(unix.Chmod("p", 0o6777))
			return seen(user(func() string { return seen(appendByte("p")) }), mode("p"), runP())
		}},
		{"exec.capability", func() string {
			install("p")
			with(set("p", "security.capability", netRaw()))
			return runP()
		}},
		{"exec.capability-lost", func() string {
			install("p")
			with(set("p", "security.capability", netRaw()), unix.Chmod("p", 0o777))
			return seen(user(func() string { return seen(appendByte("p")) }), runP())
		}},
		{"exec.busy", func() string {
			install("p")
			cmd := command("./p", "helper", "wait")
			stdin, err := cmd.StdinPipe()
			with(err, cmd.Start())
			busy := open("p", unix.O_WRONLY)
			truncate := unix.Truncate("p", 0)
			unlink := unix.Unlink("p")
			with(stdin.Close())
			return seen(busy, truncate, unlink, cmd.Wait())
		}},
		{"exec.open-for-write", func() string {
			install("p")
			f := file("p", unix.O_WRONLY)
			defer f.Close()
			return runP()
		}},
		{"exec.replaced", func() string {
			// A new program under the name of one that runs.
			install("p")
			cmd := command("./p", "helper", "wait")
			stdin, err := cmd.StdinPipe()
			with(err, cmd.Start())
			install("q")
			rerr := unix.Rename("q", "p")
			first := runP()
			with(stdin.Close())
			return seen(rerr, first, cmd.Wait())
		}},
	}
}

func appendByte(name string) error {
	f, err := unix.Open(name, unix.O_WRONLY|unix.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	_, err = unix.Write(f, []byte{0})
	return err
}
