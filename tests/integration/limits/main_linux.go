// SPDX-License-Identifier: Apache-2.0

// Command limits takes as many of the kernel's objects as it is asked for, and says how many it
// got: watches and instances of inotify, or threads.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

func main() {
	most, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	take := map[string]func(int) (int, error){"watches": watches, "instances": instances, "threads": threads}[os.Args[1]]
	n, err := take(most)
	fmt.Println(n, os.Args[1], err)
}

func watches(most int) (int, error) {
	fd, err := unix.InotifyInit1(0)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "watches")
	if err != nil {
		return 0, err
	}
	for i := range most {
		name := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(name, 0o700); err != nil {
			return i, err
		}
		if _, err := unix.InotifyAddWatch(fd, name, unix.IN_CREATE); err != nil {
			return i, err
		}
	}
	return most, nil
}

func instances(most int) (int, error) {
	for i := range most {
		if _, err := unix.InotifyInit1(0); err != nil {
			return i, err
		}
	}
	return most, nil
}

// threads starts that many, and each stays.
func threads(most int) (int, error) {
	debug.SetMaxThreads(2 * most)
	var ready sync.WaitGroup
	for range most {
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			_ = unix.Pause()
		}()
	}
	ready.Wait()
	list, err := os.ReadDir("/proc/self/task")
	return min(len(list), most), err
}
