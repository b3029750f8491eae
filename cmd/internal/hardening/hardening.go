// SPDX-License-Identifier: Apache-2.0

// Package hardening reads from a program's ELF file what its compiler and linker did against
// exploits.
//
// It must not know what the program is. Its type is Report. Read is safe for concurrent use.
package hardening

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Relro is how much of a program's tables is read-only once it runs. Read-only tables keep a fault
// from redirecting calls through them.
type Relro string

// The degrees.
const (
	NoRelro      Relro = "none"
	PartialRelro Relro = "partial" // what is bound lazily can still be written
	FullRelro    Relro = "full"
)

// Report is what was found in one file. All fields come from the file itself; nothing is executed.
type Report struct {
	Relro   Relro `json:"relro"`
	PIE     bool  `json:"pie"`
	NX      bool  `json:"nx"`
	Canary  bool  `json:"canary"`
	Fortify bool  `json:"fortify"`
	// Rust says that the compiler was Rust's: its programs need neither canary nor
	// fortified calls.
	Rust bool `json:"rust"`
}

// The program's headers and symbols are untrusted, so reading them is bounded. A file with more
// symbols is an error and no report: half a list could miss what a program has.
const (
	maxComment = 64 << 10
	maxStrings = 16 << 20
	maxSymbols = 1 << 20
)

// Missing names what a program should have and has not. The words are those of the check's table.
// Rust programs are excused from what their language does by itself.
func (r Report) Missing() []string {
	var list []string
	for _, m := range []struct {
		has  bool
		name string
	}{
		{r.Relro == FullRelro, "full RELRO (has " + string(r.Relro) + ")"},
		{r.PIE, "PIE"},
		{r.NX, "NX stack"},
		{r.Canary || r.Rust, "stack canary"},
		{r.Fortify || r.Rust, "FORTIFY"},
	} {
		if !m.has {
			list = append(list, m.name)
		}
	}
	return list
}

// Read looks at an ELF file. Any other file is an error. Symbols that were stripped cannot be
// found: such a program is reported without a canary unless its dynamic symbols show one.
func Read(file io.ReaderAt) (Report, error) {
	f, err := elf.NewFile(file)
	if err != nil {
		return Report{}, fmt.Errorf("read program: %w", err)
	}
	r := Report{Relro: NoRelro}
	interpreter, stack := false, false
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_GNU_RELRO:
			// Partial until the flags below say that everything is bound at start.
			r.Relro = PartialRelro
		case elf.PT_GNU_STACK:
			stack, r.NX = true, p.Flags&elf.PF_X == 0
		case elf.PT_INTERP:
			interpreter = true
		default:
		}
	}
	if !stack {
		r.NX = false // the kernel's default is an executable one
	}
	now, pie := dynamicFlags(f)
	// Without immediate binding the table of functions stays writable.
	if now && r.Relro == PartialRelro {
		r.Relro = FullRelro
	}
	// A shared library has the same type; an interpreter or the flag tells a program.
	r.PIE = f.Type == elf.ET_DYN && (pie || interpreter)
	r.Rust = rust(f)
	r.Canary, r.Fortify, err = symbols(f)
	return r, err
}

// dynamicFlags tells whether everything is bound at start, and whether the file
// calls itself a position independent executable. The flag for immediate binding has three forms,
// by the linker's age.
func dynamicFlags(f *elf.File) (now, pie bool) {
	has := func(tag elf.DynTag, bit uint64) bool {
		values, err := f.DynValue(tag)
		if err != nil {
			return false
		}
		for _, v := range values {
			if bit == 0 || v&bit != 0 {
				return true
			}
		}
		return false
	}
	now = has(elf.DT_BIND_NOW, 0) || has(elf.DT_FLAGS, uint64(elf.DF_BIND_NOW)) || has(elf.DT_FLAGS_1, uint64(elf.DF_1_NOW))
	return now, has(elf.DT_FLAGS_1, uint64(elf.DF_1_PIE))
}

// compiler is Rust's mark.
var compiler = regexp.MustCompile(`rustc version`)

// library is where Rust's own library was compiled, as its panics say: /rustc/HASH of Rust's
// builds, /usr/src/rustc-VERSION of Debian's.
var library = regexp.MustCompile(`/rustc[-/][A-Za-z0-9._+~-]{1,64}/library/(core|alloc|std)/src/`)

// rust looks for the compiler's mark, and where a strip has removed that, for the files of Rust's
// own library that messages of panics name.
func rust(f *elf.File) bool {
	return holds(f, ".comment", maxComment, compiler) || holds(f, ".rodata", maxStrings, library)
}

// holds tells whether the first bytes of a section match.
func holds(f *elf.File, section string, limit int64, want *regexp.Regexp) bool {
	s := f.Section(section)
	if s == nil {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(s.Open(), limit))
	return err == nil && want.Match(text)
}

// symbols looks for the functions that a protected program calls. Both tables are read: a static
// program has no dynamic symbols.
func symbols(f *elf.File) (canary, fortify bool, err error) {
	for _, read := range []func() ([]elf.Symbol, error){f.DynamicSymbols, f.Symbols} {
		list, err := read()
		if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
			return false, false, fmt.Errorf("read program's symbols: %w", err)
		}
		if len(list) > maxSymbols {
			return false, false, fmt.Errorf("read program's symbols: %d of them, at most %d are read", len(list), maxSymbols)
		}
		for _, s := range list {
			switch {
			case s.Name == "__stack_chk_fail" || s.Name == "__stack_chk_guard":
				canary = true
			case strings.HasPrefix(s.Name, "__") && strings.HasSuffix(s.Name, "_chk"):
				fortify = true
			}
		}
	}
	return canary, fortify, nil
}
