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
}

// object is what matters of one ELF file.
type object struct {
	class   elf.Class
	machine elf.Machine
	interp  string
	needed  []string
	runpath []string
}

// closure returns every library the program needs, the loader included, in the
// order found. Nothing is run.
func closure(r root, program string) ([]library, error) {
	first, err := readObject(r, program)
	if err != nil {
		return nil, err
	}
	dirs, err := libraryDirs(r)
	if err != nil {
		return nil, err
	}
	var found []library
	seen := map[string]bool{}
	if first.interp != "" {
		loader, err := r.resolve(first.interp)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", program, ErrLibrary, err)
		}
		seen[path.Base(first.interp)] = true
		found = append(found, library{name: first.interp, asked: first.interp, real: loader})
	}
	for todo := []object{first}; len(todo) > 0; todo = todo[1:] {
		for _, name := range todo[0].needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			lib, o, err := findLibrary(r, slices.Concat(todo[0].runpath, dirs), name, first)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", program, err)
			}
			if found = append(found, lib); len(found) > maxLibraries {
				return nil, fmt.Errorf("%s: more than %d shared libraries", program, maxLibraries)
			}
			todo = append(todo, o)
		}
	}
	return found, nil
}

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
