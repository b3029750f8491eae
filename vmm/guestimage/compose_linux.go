// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Where the agent finds the modules to load: one absolute path a line, in
// load order. The second list is for what a container may turn out to need:
// lines PATH|NEED...|NAME..., with the modules that must be loaded before, and
// the patterns by which the kernel asks for this one. Its files are compressed
// with gzip, as most guests never load them. A kernel without modules has no
// lists.
const (
	ModulesList     = "/lib/cloister/modules"
	LateModulesList = "/lib/cloister/modules.late"
)

const (
	users    = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
	groups   = "root:x:0:\nnogroup:x:65534:\n"
	nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n"
)

// compose lays out the initial image and begins its manifest. There is no shell and no other
// program. The agent is /init, which the kernel starts without being told.
func compose(k kernelSet, a agentBinary, c content, agent string) (tree, Manifest, error) {
	binary, err := readBounded(agent, maxModule)
	if err != nil {
		return nil, Manifest{}, fmt.Errorf("agent: %w", err)
	}
	t := tree{}
	for _, dir := range []string{"proc", "sys", "dev", "run", "root", "usr/lib/cloister"} {
		t.dir(dir, 0o755)
	}
	t.dir("tmp", 0o1777)
	// Libraries and the loader are asked for by both names; the image has the merged /usr of
	// current distributions.
	for link, target := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/bin", "usr/sbin": "bin", "var/run": "../run",
	} {
		t.link(link, target)
	}
	t.dir("usr/lib64", 0o755)
	t.file("etc/passwd", 0o644, []byte(users))
	t.file("etc/group", 0o644, []byte(groups))
	t.file("etc/nsswitch.conf", 0o644, []byte(nsswitch))
	t.file("init", 0o755, binary)
	for _, f := range c.files {
		t.file(f.name, 0o755, f.data)
	}
	m := Manifest{
		Format: manifestFormat, Arch: runtime.GOARCH,
		Kernel: Kernel{Version: k.Release, Format: k.Format, SHA256: k.SHA256},
		Agent:  Agent{Version: a.version, SHA256: a.sum},
	}
	if m.Modules, err = addModules(t, k); err != nil {
		return nil, Manifest{}, err
	}
	if m.LateModules, err = addLate(t, k); err != nil {
		return nil, Manifest{}, err
	}
	k.Package.Files = []string{KernelName}
	m.Packages = slices.Concat(c.packages, a.modules, []Package{k.Package})
	slices.SortFunc(m.Packages, comparePackages)
	return t, m, nil
}

// addModules adds the modules of the boot and the list that says in which order they load.
func addModules(t tree, k kernelSet) ([]string, error) {
	paths := []string{}
	for _, name := range k.Modules {
		data, err := readBounded(k.module(name), maxModule)
		if err != nil {
			return nil, fmt.Errorf("kernel module: %w", err)
		}
		paths = append(paths, addModule(t, k, name, data))
	}
	if len(paths) > 0 {
		t.file("/usr"+ModulesList, 0o644, []byte(strings.Join(paths, "\n")+"\n"))
	}
	return paths, nil
}

// addLate adds the late modules, packed: files of the initial image are memory that the guest
// cannot take back.
func addLate(t tree, k kernelSet) ([]string, error) {
	paths, lines := []string{}, ""
	for _, l := range k.Late {
		data, err := readBounded(k.module(l.File), maxModule)
		if err != nil {
			return nil, fmt.Errorf("kernel module: %w", err)
		}
		if data, err = gzipped(data); err != nil {
			return nil, fmt.Errorf("kernel module %s: %w", l.File, err)
		}
		path := addModule(t, k, l.File+".gz", data)
		paths = append(paths, path)
		lines += path + "|" + strings.Join(l.Needs, " ") + "|" + strings.Join(l.Names, " ") + "\n"
	}
	if lines != "" {
		t.file("/usr"+LateModulesList, 0o644, []byte(lines))
	}
	return paths, nil
}

// addModule adds one file and gives its path in the guest.
func addModule(t tree, k kernelSet, name string, data []byte) string {
	p := path.Join("/lib/modules", k.Release, name)
	t.file("/usr"+p, 0o644, data)
	return p
}

// gzipped packs with gzip; its header has neither time nor name, so that the same module gives the
// same bytes.
func gzipped(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// kernelParameters are what this kernel wants on its line, beside what any
// guest's kernel gets.
func kernelParameters(f Flavour) []string {
	if f == Small {
		// The dummy driver is built in, and would make a link nobody asked for.
		// QEMU's controller has 256 possible targets, and asking each takes a tenth of an emulated
		// guest's boot. A disk is announced by the controller, or looked for by the agent
		// (steps.FindDisk).
		return []string{"dummy.numdummies=0", "scsi_mod.scan=manual"}
	}
	// Self-tests of ciphers and the tracer's file system cost a guest without
	// hardware acceleration a fifth of its boot, and memory.
	return []string{"cryptomgr.notests", "initcall_blacklist=tracer_init_tracefs"}
}
