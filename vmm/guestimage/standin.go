// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
)

// systemd is a library that a guest has no use for although its OCI runtime is linked with it: a
// guest has no systemd. It brings libraries of its own, which take memory of every guest and time
// of every start of the runtime.
const systemd = "libsystemd.so.0"

// answer is what every function of a stand-in does: return -ENOSYS.
const answer = "\xb8\xda\xff\xff\xff\xc3" // mov $-38, %eax; ret

// imports are the functions that a program takes from a library. It is false if a stand-in cannot
// give them: the program takes variables, or is for another processor. A symbol tells its library
// by its version.
func imports(f *elf.File, library string) (functions []elf.Symbol, ok bool, err error) {
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 {
		return nil, false, nil
	}
	all, err := f.DynamicSymbols()
	if err != nil {
		return nil, false, err
	}
	for _, s := range all {
		if s.Section != elf.SHN_UNDEF || s.Library != library {
			continue
		}
		if t := elf.ST_TYPE(s.Info); t != elf.STT_FUNC && t != elf.STT_NOTYPE {
			return nil, false, nil
		}
		functions = append(functions, s)
	}
	return functions, true, nil
}

// standIn makes a shared library with those functions in those versions, for x86-64. It has no code
// but answer, and needs no other library. The layout is that of the System V ABI, with GNU's symbol
// versions, which the loader compares with those that the program was linked against. The loader
// writes to the second of its two segments. No compiler is needed, so an image can be built on a
// host without one.
func standIn(name string, functions []elf.Symbol) ([]byte, error) {
	// The ELF header has 64 bytes, and each of the four program headers 56.
	const headers, page = 64 + 4*56, 0x1000
	s := newStrings()
	soname := s.add(name)
	versions := []string{name} // the first is the library itself
	symbols, marks := make([]elf.Sym64, 1), make([]uint16, 1)
	for _, f := range functions {
		at := slices.Index(versions, f.Version)
		if at < 0 {
			at = len(versions)
			versions = append(versions, f.Version)
		}
		symbols = append(symbols, elf.Sym64{
			Name: s.add(f.Name), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1, Size: uint64(len(answer)),
		})
		marks = append(marks, uint16(at+1))
	}
	definitions := versionDefinitions(s, versions)
	o := &image{bytes: make([]byte, headers)}
	code := o.add([]byte(answer))
	// All functions are one piece of code.
	for i := range symbols[1:] {
		symbols[i+1].Value = code
	}
	dynamic := []elf.Dyn64{
		{Tag: int64(elf.DT_SONAME), Val: uint64(soname)},
		{Tag: int64(elf.DT_SYMTAB), Val: o.add(symbols)},
		{Tag: int64(elf.DT_SYMENT), Val: elf.Sym64Size},
		{Tag: int64(elf.DT_STRTAB), Val: o.add(s.bytes)},
		{Tag: int64(elf.DT_STRSZ), Val: uint64(len(s.bytes))},
		{Tag: int64(elf.DT_HASH), Val: o.add(oneBucket(len(symbols)))},
		{Tag: int64(elf.DT_VERSYM), Val: o.add(marks)},
		{Tag: int64(elf.DT_VERDEF), Val: o.add(definitions)},
		{Tag: int64(elf.DT_VERDEFNUM), Val: uint64(len(versions))},
		{},
	}
	// The second segment begins on a page of its own: the loader writes to it, and the first is not
	// writable.
	text := uint64(len(o.bytes))
	o.bytes = append(o.bytes, make([]byte, page-len(o.bytes)%page)...)
	data := o.add(dynamic)
	size := uint64(len(o.bytes)) - data
	var head bytes.Buffer
	err := binary.Write(&head, binary.LittleEndian, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 4,
	})
	if err == nil {
		err = binary.Write(&head, binary.LittleEndian, []elf.Prog64{
			segment(elf.PT_LOAD, elf.PF_R|elf.PF_X, 0, text, page),
			segment(elf.PT_LOAD, elf.PF_R|elf.PF_W, data, size, page),
			segment(elf.PT_DYNAMIC, elf.PF_R|elf.PF_W, data, size, 8),
			segment(elf.PT_GNU_STACK, elf.PF_R|elf.PF_W, 0, 0, 16),
		})
	}
	if err == nil && head.Len() != headers {
		err = fmt.Errorf("headers have %d bytes, want %d", head.Len(), headers)
	}
	if err != nil || o.err != nil {
		return nil, fmt.Errorf("stand-in for %s: %w, %w", name, err, o.err)
	}
	copy(o.bytes, head.Bytes())
	return o.bytes, nil
}

// segment is a program header of a part that has the same place in file and memory.
func segment(t elf.ProgType, flags elf.ProgFlag, at, size, align uint64) elf.Prog64 {
	return elf.Prog64{Type: uint32(t), Flags: uint32(flags), Off: at, Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: align}
}

// image grows part by part. Its parts have the addresses that they have in the file. err is the
// first or a later error of add.
type image struct {
	bytes []byte
	err   error
}

// add appends values, aligned, and gives their address.
func (o *image) add(values any) uint64 {
	o.bytes = append(o.bytes, make([]byte, -len(o.bytes)&7)...)
	at := uint64(len(o.bytes))
	var err error
	if o.bytes, err = binary.Append(o.bytes, binary.LittleEndian, values); err != nil {
		o.err = err
	}
	return at
}

// stringTable is a table of strings that end with a zero; offset 0 is the empty one, as ELF wants
// it.
type stringTable struct{ bytes []byte }

func newStrings() *stringTable { return &stringTable{make([]byte, 1)} }

func (s *stringTable) add(text string) uint32 {
	at := uint32(len(s.bytes))
	s.bytes = append(append(s.bytes, text...), 0)
	return at
}

// oneBucket is a hash table in which every symbol is looked at. There are few symbols, and the
// loader needs some hash table.
func oneBucket(symbols int) []uint32 {
	table := []uint32{1, uint32(symbols), 1 % uint32(symbols), 0}
	for i := 1; i < symbols; i++ {
		table = append(table, uint32((i+1)%symbols))
	}
	return table
}

// versionDefinition is an Elf64_Verdef with its one Elf64_Verdaux.
type versionDefinition struct {
	Version, Flags, Index, Count uint16
	Hash, Aux, Next              uint32
	Name, NextName               uint32
}

// Sizes in bytes, and a flag, of glibc's elf.h.
const (
	definitionBytes = 28
	auxOffset       = 20
	flagBase        = 1 // VER_FLG_BASE
)

// versionDefinitions defines the library itself and each version, one after the other.
func versionDefinitions(s *stringTable, names []string) []versionDefinition {
	out := make([]versionDefinition, len(names))
	for i, name := range names {
		out[i] = versionDefinition{
			Version: 1, Index: uint16(i + 1), Count: 1, Hash: hashName(name), Aux: auxOffset, Next: definitionBytes, Name: s.add(name),
		}
	}
	out[0].Flags, out[len(out)-1].Next = flagBase, 0
	return out
}

// hashName is the hash function of the System V ABI.
func hashName(name string) (h uint32) {
	for _, c := range []byte(name) {
		h = h<<4 + uint32(c)
		h = (h ^ h>>28<<4) & 0x0fffffff
	}
	return h
}
