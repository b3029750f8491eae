// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Where the agent finds the modules to load: one absolute path a line, in
// load order. The second list may wait until the host has been greeted.
const (
	ModulesList     = "/lib/cloister/modules"
	LateModulesList = "/lib/cloister/modules.late"
)

const (
	passwd   = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
	group    = "root:x:0:\nnogroup:x:65534:\n"
	nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n"
)

// compose lays out the initial image and begins its manifest.
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
	for link, target := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/bin", "usr/sbin": "bin", "var/run": "../run",
	} {
		t.link(link, target)
	}
	t.dir("usr/lib64", 0o755)
	t.file("etc/passwd", 0o644, []byte(passwd))
	t.file("etc/group", 0o644, []byte(group))
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
	if m.Modules, err = addModules(t, k, k.Modules, ModulesList); err != nil {
		return nil, Manifest{}, err
	}
	if m.LateModules, err = addModules(t, k, k.Late, LateModulesList); err != nil {
		return nil, Manifest{}, err
	}
	k.Package.Files = []string{KernelName}
	m.Packages = slices.Concat(c.packages, a.modules, []Package{k.Package})
	slices.SortFunc(m.Packages, comparePackages)
	return t, m, nil
}

// addModules adds modules and the list that says in which order they load.
func addModules(t tree, k kernelSet, names []string, list string) ([]string, error) {
	paths := []string{}
	for _, name := range names {
		data, err := readBounded(k.module(name), maxModule)
		if err != nil {
			return nil, fmt.Errorf("kernel module: %w", err)
		}
		p := path.Join("/lib/modules", k.Release, name)
		t.file("/usr"+p, 0o644, data)
		paths = append(paths, p)
	}
	t.file("/usr"+list, 0o644, []byte(strings.Join(append(paths[:len(paths):len(paths)], ""), "\n")))
	return paths, nil
}
