// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// pages is how many a program has.
const pages = 200

// sums is a program that adds a number in each of its pages, on the way from the first to the last,
// and exits with the lowest byte of the sum.
func sums(t *testing.T, number byte) []byte {
	t.Helper()
	const base, page = 0x400000, 4096
	var out bytes.Buffer
	for _, header := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: base + page, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
			Filesz: (pages + 2) * page, Memsz: (pages + 2) * page, Align: page,
		},
	} {
		if err := binary.Write(&out, binary.LittleEndian, header); err != nil {
			t.Fatal(err)
		}
	}
	text := make([]byte, (pages+2)*page)
	copy(text, out.Bytes())
	for i := 1; i <= pages; i++ {
		copy(text[i*page:], []byte{0x83, 0xc7, number, 0xe9, 0xf8, 0x0f, 0, 0}) // add edi, number; jmp to the next page
	}
	copy(text[(pages+1)*page:], []byte{0xb8, 60, 0, 0, 0, 0x0f, 0x05}) // mov eax, SYS_exit; syscall
	return text
}

// TestCodeOfAnotherFile runs programs whose code the file server puts into the same pages at the
// same addresses, one after the other: each does what it says, and not what was there before.
func TestCodeOfAnotherFile(t *testing.T) {
	g := newGround(t, host.Options{Cloister: "[timeouts]\nboot = \"5m\"\n"})
	dir := g.folder(t, "programs")
	for number := byte(1); number <= 8; number++ {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(number)), sums(t, number), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g.start(t, "c", bed.Cloister, "--cap-add=CAP_SYS_ADMIN", bind(dir, "/programs", "rbind:ro"))
	script := fmt.Sprintf(`mkdir /p && mount -t proc proc /p || exit; wrong=0; n=0
while [ $n -lt 100 ]; do
	n=$((n+1)); s=$((n%%8+1)); echo 1 >/p/sys/vm/drop_caches; /programs/$s; [ $? = $((%d*s%%256)) ] || wrong=$((wrong+1))
done; echo $n $wrong`, pages)
	if got := g.sh(t, "c", script); got != "100 0\n" {
		t.Errorf("runs and wrong ones: %q", got)
	}
}
