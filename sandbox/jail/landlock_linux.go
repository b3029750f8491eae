// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Files are what a process may open by name, on a host with Landlock. Descriptors that it inherits
// or is sent stay usable. It may not connect to TCP ports or abstract sockets, and may not signal
// other processes, as far as the kernel's version of Landlock knows of these. Landlock looks at
// names when they are opened, so the paths are those of the namespace that the process is in.
type Files struct {
	// Read are files and folders to read, beside the libraries and what the C library reads.
	Read []string
	// Devices are nodes to read, write and control.
	Devices []string
	// Tree, when not empty, is a folder below which everything is allowed but to execute files.
	Tree string
}

// LandlockABI is the version of Landlock that the kernel has; 0: none, or it is off. Each version
// knows more: ABI 4 TCP ports, 5 ioctl on devices, 6 abstract sockets and signals.
func LandlockABI() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return version
}

const (
	readFile landlock.AccessFSSet = ll.AccessFSReadFile
	readTree landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSReadDir
	execute  landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSExecute
)

// restrict confines the calling thread and what it starts, which is program. A kernel without
// Landlock confines nothing: LandlockABI tells. It needs no_new_privs or CAP_SYS_ADMIN, and cannot
// be taken back.
func (f Files) restrict(program string) error {
	if LandlockABI() == 0 {
		return nil
	}
	rules, err := f.rules(program)
	if err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	// BestEffort drops what the kernel does not know yet and keeps the rest; a refusal of a known
	// right is an error.
	fd, flags, err := landlock.V11.BestEffort().EnableLoggingForSubprocesses().NewRulesetFD(rules...)
	if err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	set := os.NewFile(uintptr(fd), "landlock")
	defer set.Close() // nothing is buffered
	if err := ll.LandlockRestrictSelf(fd, flags); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

// rules are those of Files, the program and what every program reads. /proc and /sys may be read,
// as the programs do: the /proc of the process is its namespace's own.
func (f Files) rules(program string) ([]landlock.Rule, error) {
	rules := []landlock.Rule{
		landlock.PathAccess(execute, program),
		landlock.PathAccess(readTree, "/usr", "/lib", "/lib64", "/lib32", "/proc", "/sys").IgnoreIfMissing(),
		landlock.PathAccess(readFile, "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime").IgnoreIfMissing(),
		landlock.RWFiles("/dev/null"), // os/exec opens it too
		landlock.PathAccess(readFile, "/dev/urandom"),
	}
	// The kernel executes the loader, which maps the program: a right to execute the program alone
	// gives EACCES.
	loader, err := loaderOf(program)
	if err != nil {
		return nil, err
	}
	if loader != "" {
		rules = append(rules, landlock.PathAccess(execute, loader))
	}
	for _, path := range f.Read {
		access := readFile
		// Landlock refuses a rule for a file that has rights of folders (EINVAL).
		if info, err := os.Stat(path); err != nil {
			return nil, err
		} else if info.IsDir() {
			access = readTree
		}
		rules = append(rules, landlock.PathAccess(access, path))
	}
	if len(f.Devices) > 0 {
		rules = append(rules, landlock.RWFiles(f.Devices...).WithIoctlDev())
	}
	if f.Tree != "" {
		// Refer: a guest may rename and link between folders of its volumes.
		rules = append(rules, landlock.RWDirs(f.Tree).WithRefer())
	}
	return rules, nil
}

// loaderOf is the dynamic loader that the kernel executes with a program; empty: none. A script
// would run by its interpreter, whose files are not in the list.
func loaderOf(program string) (string, error) {
	f, err := elf.Open(program)
	if _, script := errors.AsType[*elf.FormatError](err); script {
		return "", fmt.Errorf("%s is no ELF program, so what it opens is not known: "+
			"name the program itself instead of a script, or put %q and %q into jail.disable: %w", program, Landlock, RootDir, err)
	}
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		const longest = 4096 // PATH_MAX
		name, err := io.ReadAll(io.LimitReader(p.Open(), longest))
		return strings.TrimRight(string(name), "\x00"), err
	}
	return "", nil
}

// MayOpen gives the jail with the files, unless the part landlock is off. It is a method of a
// value: j itself stays as it is.
func (j Jail) MayOpen(c Config, f Files) Jail {
	if c.Has(Landlock) {
		j.Files = &f
	}
	return j
}
