// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// held is what a victim has, by the errors of what it may not have.
type held struct {
	PID    int               `json:"pid"`
	Memfd  int               `json:"memfd"`
	Key    int               `json:"key"`
	Errors map[string]string `json:"errors"`
}

// hold makes things for others to attack, says what they are and stays: abstract sockets @NAME and
// @NAME.dgram, a memfd, System V objects under the number given, a key. Arguments: NAME NUMBER
// [SOCKET].
func hold(a []string) error {
	number, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	h := held{PID: os.Getpid(), Errors: map[string]string{}}
	note := func(what string, err error) {
		if err != nil {
			h.Errors[what] = err.Error()
		}
	}
	note("stream", listen(unix.SOCK_STREAM, "@"+a[0]))
	note("dgram", listen(unix.SOCK_DGRAM, "@"+a[0]+".dgram"))
	if len(a) > 2 {
		_ = unix.Unlink(a[2])
		note("socket", listen(unix.SOCK_STREAM, a[2]))
	}
	h.Memfd, err = memory()
	note("memfd", err)
	id, err := unix.SysvShmGet(number, 4096, unix.IPC_CREAT|0o666)
	note("shm", err)
	if err == nil {
		_, err = unix.SysvShmAttach(id, 0, 0)
		note("shm attach", err)
	}
	note("sem", call(unix.SYS_SEMGET, uintptr(number), 1, unix.IPC_CREAT|0o666))
	note("msg", call(unix.SYS_MSGGET, uintptr(number), unix.IPC_CREAT|0o666))
	h.Key, err = key(a[0])
	note("key", err)
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	for {
		_ = unix.Pause()
	}
}

func listen(kind int, name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return err
	}
	if kind == unix.SOCK_STREAM {
		return unix.Listen(fd, 100)
	}
	return nil
}

func memory() (int, error) {
	fd, err := unix.MemfdCreate("guest memory", 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.Ftruncate(fd, 1<<20)
}

// key makes a key that others are let at by everything but its label.
func key(name string) (int, error) {
	id, err := unix.AddKey("user", name, []byte("secret"), unix.KEY_SPEC_PROCESS_KEYRING)
	if err != nil {
		return 0, err
	}
	return id, unix.KeyctlSetperm(id, 0x3f3f3f3f)
}
