// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrLibrary is wrapped when a program's shared library is not found.
var ErrLibrary = errors.New("shared library not found")

// maxLoaderConfig bounds one file of ld.so.conf.
const maxLoaderConfig = 1 << 20

// maxLibraries bounds what one program may pull in.
const maxLibraries = 128

// library is one file a dynamically linked program needs.
type library struct {
	// name is what programs ask for: the soname, or the interpreter's path.
	name string
	// asked is its path below the root before links are followed, real the
	// one after.
	asked, real string
	// instead is what the image has in its place; nil: the file itself.
	instead []byte
}

// object is what matters of one ELF file.
type object struct {
	class   elf.Class
	machine elf.Machine
	interp  string
	needed  []string
	runpath []string
}

// closure returns every library the program needs, the loader included, in the order found. Nothing
// is run: ldd would start the program of a foreign root. systemd is replaced by a stand-in, unless
// another library needs it as well, since a stand-in has the program's functions alone.
func closure(r root, program string) ([]library, error) {
	libs, err := libraries(r, program, systemd)
	if errors.Is(err, errShared) {
		return libraries(r, program, "")
	}
	return libs, err
}

// errShared is of a library that cannot be replaced, because a library needs it.
var errShared = errors.New("a library needs it as well")

// libraries is closure with one library, if any, replaced.
func libraries(r root, program, replaced string) ([]library, error) {
	first, err := readObject(r, program)
	if err != nil {
		return nil, err
	}
	c := &closing{root: r, program: program, replaced: replaced, first: first, seen: map[string]bool{}}
	if c.dirs, err = libraryDirs(r); err != nil {
		return nil, err
	}
	if first.interp != "" {
		loader, err := r.resolve(first.interp)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", program, ErrLibrary, err)
		}
		// Libraries name the loader as a library too.
		c.seen[path.Base(first.interp)] = true
		c.found = append(c.found, library{name: first.interp, asked: first.interp, real: loader})
	}
	err = c.add(first)
	for err == nil && len(c.todo) > 0 {
		next := c.todo[0]
		c.todo = c.todo[1:]
		if slices.Contains(next.needed, replaced) {
			err = errShared
		} else {
			err = c.add(next)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	return c.found, nil
}

// closing is a search for what a program needs.
type closing struct {
	root     root
	program  string
	replaced string // the library that gets a stand-in
	first    object // the program
	dirs     []string
	seen     map[string]bool
	found    []library
	todo     []object // found, with what they need not yet looked at
}

// add finds what an object needs. Each name is looked for once, as the loader does it; what a
// stand-in's original needs is not needed.
func (c *closing) add(o object) error {
	for _, name := range o.needed {
		if c.seen[name] {
			continue
		}
		c.seen[name] = true
		lib, its, err := findLibrary(c.root, slices.Concat(o.runpath, c.dirs), name, c.first)
		if err == nil && name == c.replaced {
			lib.instead, err = replace(c.root, c.program, name)
		}
		if err != nil {
			return err
		}
		if c.found = append(c.found, lib); len(c.found) > maxLibraries {
			return fmt.Errorf("more than %d shared libraries", maxLibraries)
		}
		if lib.instead == nil {
			c.todo = append(c.todo, its)
		}
	}
	return nil
}

// replace makes a stand-in for a library of a program's; nil if there can be none, and then the
// library itself is taken.
func replace(r root, program, name string) ([]byte, error) {
	f, err := elf.Open(r.host(program))
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	functions, ok, err := imports(f, name)
	if err != nil || !ok {
		return nil, err
	}
	return standIn(name, functions)
}

// findLibrary looks for a library in folders, in their order, as the loader does. A file for
// another architecture is passed over.
func findLibrary(r root, dirs []string, name string, like object) (library, object, error) {
	for _, dir := range dirs {
		asked := path.Join(dir, name)
		file, ok, err := r.exists(asked)
		if err != nil {
			return library{}, object{}, err
		}
		if !ok {
			continue
		}
		o, err := readObject(r, file)
		if err != nil || o.class != like.class || o.machine != like.machine {
			continue // another architecture's, or a linker script
		}
		return library{name: name, asked: asked, real: file}, o, nil
	}
	return library{}, object{}, fmt.Errorf("%w: %s", ErrLibrary, name)
}

// readObject reads what the loader would read of an ELF file.
func readObject(r root, name string) (object, error) {
	file, err := r.resolve(name)
	if err != nil {
		return object{}, err
	}
	f, err := elf.Open(r.host(file))
	if err != nil {
		return object{}, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	o := object{class: f.Class, machine: f.Machine}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		raw, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return object{}, fmt.Errorf("%s: interpreter: %w", name, err)
		}
		o.interp = strings.TrimRight(string(raw), "\x00")
	}
	// A static program has no such table.
	if f.SectionByType(elf.SHT_DYNAMIC) == nil {
		return o, nil
	}
	if o.needed, err = f.ImportedLibraries(); err != nil {
		return object{}, fmt.Errorf("%s: %w", name, err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			return object{}, fmt.Errorf("%s: %w", name, err)
		}
		for _, p := range paths {
			for dir := range strings.SplitSeq(p, ":") {
				o.runpath = append(o.runpath, strings.NewReplacer("$ORIGIN", path.Dir(file), "${ORIGIN}", path.Dir(file)).Replace(dir))
			}
		}
	}
	return o, nil
}

// libraryDirs are the folders of ld.so.conf and those the loader knows.
func libraryDirs(r root) ([]string, error) {
	files, err := filepath.Glob(r.host("/etc/ld.so.conf.d/*.conf"))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, file := range append(files, r.host("/etc/ld.so.conf")) {
		data, err := readBounded(file, maxLoaderConfig)
		if err != nil {
			continue
		}
		for line := range strings.SplitSeq(string(data), "\n") {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
				dirs = append(dirs, line)
			}
		}
	}
	for _, multi := range []string{"x86_64-linux-gnu", "aarch64-linux-gnu"} {
		dirs = append(dirs, "/lib/"+multi, "/usr/lib/"+multi)
	}
	return append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib"), nil
}
