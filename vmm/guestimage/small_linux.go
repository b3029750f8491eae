// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How often a compile says how far it is: in lines, and where somebody counts.
const (
	progressEvery = 10 * time.Second
	countEvery    = 200 * time.Millisecond
)

// smallFiles is how many files the small kernel is compiled of, in Linux 6.12. Only people see it.
const smallFiles = 1884

// smallKernel makes the small kernel from the distribution's source package.
type smallKernel struct {
	root  root
	jobs  int
	log   progress
	count func(done, about int)
}

// maxConfig bounds what is read of the kernel's small files.
const maxConfig = 4 << 20

// sourceName is how Debian names its kernel source package and the archive in
// it.
var sourceName = regexp.MustCompile(`^(linux-source-(\d+)\.(\d+))\.tar\.xz$`)

// source returns the newest kernel source archive and its package's name. Versions are compared as
// numbers: 6.9 is older than 6.12.
func (s smallKernel) source() (string, string, error) {
	entries, err := os.ReadDir(s.root.host("/usr/src"))
	if err != nil {
		return "", "", fmt.Errorf("kernel source: %w", err)
	}
	best, at := []int{-1, -1}, ""
	for _, e := range entries {
		m := sourceName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		major, err1 := strconv.Atoi(m[2])
		minor, err2 := strconv.Atoi(m[3])
		if err := errors.Join(err1, err2); err != nil {
			return "", "", fmt.Errorf("kernel source %q: %w", e.Name(), err)
		}
		if v := []int{major, minor}; slices.Compare(v, best) > 0 {
			best, at = v, e.Name()
		}
	}
	if at == "" {
		return "", "", errors.New("kernel source: no linux-source-*.tar.xz in /usr/src: install the package linux-source-6.12")
	}
	return s.root.host(filepath.Join("/usr/src", at)), sourceName.FindStringSubmatch(at)[1], nil
}

// sourceEdit is a change of one place in the kernel's source.
type sourceEdit struct{ file, old, with string }

// sourceEdits are what the small kernel has otherwise than its source.
func sourceEdits() []sourceEdit {
	return []sourceEdit{
		// QEMU's emulation may keep what a CPU was translating while another CPU changed it: here a
		// breakpoint that stands in code for a moment, met after the change as a fault of the
		// kernel ("Oops: int3"). Three CPUs on a busy host panicked so in one boot of twenty. Once
		// all CPUs have stopped for the change, writing the same byte again drops what was kept.
		{
			file: "arch/x86/kernel/alternative.c",
			old:  "\tif (do_sync)\n\t\ttext_poke_sync();\n\n\t/*\n\t * Remove and wait for refs to be zero.\n",
			with: "\tif (do_sync) {\n\t\ttext_poke_sync();\n" +
				"\t\tfor (i = 0; i < nr_entries; i++) {\n" +
				"\t\t\tu8 byte = *(u8 *)text_poke_addr(&tp[i]);\n\n" +
				"\t\t\ttext_poke(text_poke_addr(&tp[i]), &byte, INT3_INSN_SIZE);\n" +
				"\t\t}\n\t\ttext_poke_sync();\n\t}\n\n" +
				"\t/*\n\t * Remove and wait for refs to be zero.\n",
		},
		// virtio-console fills its input queues with pages. QEMU gives a queue of virtio-mmio 1024
		// entries, whatever the device asks for: the agent's port and the control queue held 8 MiB
		// of each guest.
		{
			file: "drivers/char/virtio_console.c",
			old:  "\tspin_unlock_irq(lock);\n\t} while (ret > 0);\n",
			with: "\tspin_unlock_irq(lock);\n\t} while (ret > 0 && nr_added_bufs < 64);\n",
		},
		// A file that was not opened for writing has nothing to flush. The request at each close
		// was one of five for reading a small file. A server that keeps the guest's locks learns of
		// an unlock by it, and a container may mount a server of its own: so only virtio-fs
		// (auto_submounts), whose server keeps none (no_lock).
		{
			file: "fs/fuse/file.c",
			old:  "\tif (ff->open_flags & FOPEN_NOFLUSH && !fm->fc->writeback_cache)\n\t\treturn 0;\n",
			with: "\tif ((ff->open_flags & FOPEN_NOFLUSH ||\n" +
				"\t     (fm->fc->auto_submounts && fm->fc->no_lock && !(file->f_mode & FMODE_WRITE))) &&\n" +
				"\t    !fm->fc->writeback_cache)\n\t\treturn 0;\n",
		},
		// A new or removed name changes size, times and links of its folder, not owner and mode.
		// The kernel asked for all of them again before the next name, which needs the owner and
		// mode.
		{
			file: "fs/fuse/dir.c",
			old:  "\tfuse_invalidate_attr(dir);\n\tinode_maybe_inc_iversion(dir, false);\n",
			with: "\tfuse_invalidate_attr_mask(dir, get_fuse_conn(dir)->auto_submounts ?\n" +
				"\t\tFUSE_STATX_MODSIZE | STATX_NLINK : STATX_BASIC_STATS);\n" +
				"\tinode_maybe_inc_iversion(dir, false);\n",
		},
		// Who makes a file and wants it to be new need not be told first whether it is: the server
		// says so. The name is kept as one that is missing, as after a lookup in vain.
		{
			file: "fs/fuse/dir.c",
			old:  "\tif (d_in_lookup(entry)) {\n\t\tres = fuse_lookup(dir, entry, 0);\n",
			with: "\tif (d_in_lookup(entry) && fc->auto_submounts &&\n" +
				"\t    (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) {\n" +
				"\t\td_add(entry, NULL);\n\t\tfuse_invalidate_entry_cache(entry);\n" +
				"\t} else if (d_in_lookup(entry)) {\n\t\tres = fuse_lookup(dir, entry, 0);\n",
		},
		// A write takes set-uid bits and file capabilities away. The server's kernel does that
		// (FUSE_HANDLE_KILLPRIV_V2): the question for capabilities before the first write was in
		// vain.
		{
			file: "fs/fuse/file.c",
			old:  "\terr = file_remove_privs(file);\n",
			with: "\terr = fc->auto_submounts && fc->handle_killpriv_v2 ? 0 : file_remove_privs(file);\n",
		},
	}
}

// apply wants the old text exactly once: another source may need another change.
func (e sourceEdit) apply(work string) error {
	path := filepath.Join(work, e.file)
	text, err := readBounded(path, maxConfig)
	if err != nil {
		return fmt.Errorf("kernel source: %w", err)
	}
	if n := bytes.Count(text, []byte(e.old)); n != 1 {
		return fmt.Errorf("kernel source: %s has the text to change %d times, want once", e.file, n)
	}
	if err := writeFile(path, bytes.Replace(text, []byte(e.old), []byte(e.with), 1)); err != nil {
		return fmt.Errorf("kernel source: %w", err)
	}
	return nil
}

// inputs implements maker. Compiler and linker are among them: another version gives other bytes.
func (s smallKernel) inputs(ctx context.Context) ([]string, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("the small kernel has a configuration for amd64 only, this is %s: use --kernel=distro", runtime.GOARCH)
	}
	_, name, err := s.source()
	if err != nil {
		return nil, err
	}
	packages, err := readDebs(s.root)
	if err != nil {
		return nil, err
	}
	words := []string{"small", runtime.GOARCH, name, packages.version[name], smallConfig}
	for _, e := range sourceEdits() {
		words = append(words, e.file, e.old, e.with)
	}
	for _, tool := range []string{"gcc", "ld"} {
		out, err := command{name: tool, args: []string{"--version"}}.output(ctx)
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(string(out), "\n")
		words = append(words, first)
	}
	return words, nil
}

// make implements maker. The kernel is the stripped vmlinux, which both boards start by its PVH
// entry: a bzImage would be decompressed in each guest.
func (s smallKernel) make(ctx context.Context, dir, work string) (kernelSet, error) {
	archive, name, err := s.source()
	if err != nil {
		return kernelSet{}, err
	}
	packages, err := readDebs(s.root)
	if err != nil {
		return kernelSet{}, err
	}
	p := packages.named(name)
	s.log.say("unpacking %s %s", name, p.Version)
	unpack := command{name: "tar", args: []string{"-x", "-f", archive, "-C", work, "--strip-components=1"}}
	if err := unpack.run(ctx); err != nil {
		return kernelSet{}, err
	}
	for _, e := range sourceEdits() {
		if err := e.apply(work); err != nil {
			return kernelSet{}, err
		}
	}
	s.log.say("configuring the kernel")
	if err := s.configure(ctx, dir, work); err != nil {
		return kernelSet{}, err
	}
	if err := s.compile(ctx, work); err != nil {
		return kernelSet{}, err
	}
	release, err := readBounded(filepath.Join(work, "include/config/kernel.release"), maxConfig)
	if err != nil {
		return kernelSet{}, fmt.Errorf("kernel: %w", err)
	}
	strip := command{name: "strip", args: []string{"-o", filepath.Join(dir, kernelFile), filepath.Join(work, "vmlinux")}}
	if err := strip.run(ctx); err != nil {
		return kernelSet{}, err
	}
	return kernelSet{Release: strings.TrimSpace(string(release)), Format: Vmlinux, Package: p}, nil
}

// configure writes the kernel's configuration, keeps a copy in dir and checks that it is what the
// fragment asks for. It begins with tinyconfig, where everything is off: what the fragment does not
// name is not in the kernel.
func (s smallKernel) configure(ctx context.Context, dir, work string) error {
	if err := s.kbuild(work, nil, "tinyconfig").run(ctx); err != nil {
		return err
	}
	path := filepath.Join(work, ".config")
	tiny, err := readBounded(path, maxConfig)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	// Of two lines for one option kbuild takes the last, so the fragment wins.
	if err := writeFile(path, append(tiny, smallConfig...)); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if err := s.kbuild(work, nil, "olddefconfig").run(ctx); err != nil {
		return err
	}
	final, err := readBounded(path, maxConfig)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "config"), final); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return checkConfig(smallConfig, string(final))
}

// compile makes vmlinux alone. There are no modules, so nothing else is needed.
func (s smallKernel) compile(ctx context.Context, work string) error {
	jobs := s.jobs
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	s.log.say("compiling the kernel with %d jobs: some minutes, once", jobs)
	c := newCompileCounter(s.log, s.count)
	err := s.kbuild(work, c, "-j"+strconv.Itoa(jobs), "vmlinux").run(ctx)
	c.end(err)
	return err
}

// kbuild is a call of the kernel's make in which nothing of the builder shows. Time, user, host and
// the number of the build would be in the kernel's version otherwise.
func (s smallKernel) kbuild(work string, out io.Writer, args ...string) command {
	return command{
		dir: work, out: out, name: "make", args: args,
		env: []string{
			"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_USER=cloister",
			"KBUILD_BUILD_HOST=cloister", "KBUILD_BUILD_VERSION=1", "SOURCE_DATE_EPOCH=0",
		},
	}
}

// compileCounter counts what make says it does. It calls count now and then, or says it in a line
// where there is no count.
type compileCounter struct {
	log           progress
	count         func(done, about int)
	every         time.Duration
	files         int
	started, next time.Time
}

func newCompileCounter(log progress, count func(done, about int)) *compileCounter {
	c := &compileCounter{log: log, count: count, every: progressEvery, started: time.Now()}
	if count != nil {
		c.every = countEvery
	}
	c.next = c.started.Add(c.every)
	return c
}

// Write counts lines of make that name a compiled file.
func (c *compileCounter) Write(p []byte) (int, error) {
	for _, word := range []string{"  CC ", "  AS "} {
		c.files += bytes.Count(p, []byte(word))
	}
	now := time.Now()
	if now.Before(c.next) {
		return len(p), nil
	}
	c.next = now.Add(c.every)
	if c.count != nil {
		c.count(c.files, max(smallFiles, c.files+1))
	} else {
		c.say(now)
	}
	return len(p), nil
}

func (c *compileCounter) say(now time.Time) {
	c.log.say("compiled %d files in %s", c.files, now.Sub(c.started).Round(time.Second))
}

// end is called once, with what the compile came to.
func (c *compileCounter) end(err error) {
	if c.count != nil {
		c.count(c.files, c.files)
	}
	if err == nil {
		c.say(time.Now())
	}
}
