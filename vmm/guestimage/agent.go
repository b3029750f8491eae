// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

// ErrAgent is wrapped when a binary cannot be the guest's first process. Without the check the
// mistake would show as a kernel that panics in each guest.
var ErrAgent = errors.New("not a guest agent")

// agentName is the last element of the agent's package path.
const agentName = "cloister-agent"

// agentBinary is what a build needs to know of the agent. sum is the binary's SHA-256; version is
// for people.
type agentBinary struct {
	version string
	sum     string
	// modules are the Go modules linked into it.
	modules []Package
}

// inspectAgent checks that a file can be the guest's first process: the agent's program, for the
// guest's architecture, with nothing to load. It looks at Go's build information and the ELF
// headers; the file's name says nothing.
func inspectAgent(ctx context.Context, file, arch string) (agentBinary, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return agentBinary{}, fmt.Errorf("%w: %w", ErrAgent, err)
	}
	if path.Base(info.Path) != agentName {
		return agentBinary{}, fmt.Errorf("%w: %s is the program %s, want %s", ErrAgent, file, info.Path, agentName)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["GOOS"] != "linux" || settings["GOARCH"] != arch {
		return agentBinary{}, fmt.Errorf("%w: %s is for %s/%s, want linux/%s",
			ErrAgent, file, settings["GOOS"], settings["GOARCH"], arch)
	}
	f, err := elf.Open(file)
	if err != nil {
		return agentBinary{}, fmt.Errorf("%w: %s: %w", ErrAgent, file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return agentBinary{}, fmt.Errorf("%w: %s needs shared libraries: build it with CGO_ENABLED=0", ErrAgent, file)
		}
	}
	sum, err := fileSum(file)
	if err != nil {
		return agentBinary{}, fmt.Errorf("agent: %w", err)
	}
	return agentBinary{version: agentVersion(ctx, file, info), sum: sum, modules: goPackages(info)}, nil
}

// versionLimit is how long the agent has to print its version.
const versionLimit = 10 * time.Second

// agentVersion is what the agent prints for --version: the linker has stamped it, and leaves no
// trace in the build information. An agent that prints none has its module's version, or "devel".
func agentVersion(ctx context.Context, file string, info *debug.BuildInfo) string {
	if file, err := filepath.Abs(file); err == nil {
		ctx, cancel := context.WithTimeout(ctx, versionLimit)
		defer cancel()
		out, err := exec.CommandContext(ctx, file, "--version").Output()
		// The manifest takes plain words alone, and the build must not fail over a version's text.
		if version := strings.TrimSpace(string(out)); err == nil && isPlainWord(version) {
			return version
		}
	}
	if info.Main.Version != "(devel)" {
		return cmp.Or(info.Main.Version, "devel")
	}
	return "devel"
}

// goPackages lists Go's own library and the modules a binary is linked from. They belong to what is
// shipped, with their licences, as the distribution's packages do.
func goPackages(info *debug.BuildInfo) []Package {
	out := []Package{{Kind: "go", Name: "std", Version: info.GoVersion, Licence: "BSD-3-Clause"}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		out = append(out, Package{Kind: "go", Name: m.Path, Version: m.Version, Licence: moduleLicence(m.Path, m.Version)})
	}
	return out
}

// moduleLicence reads a module's licence from the module cache, where the build of the agent has
// put it. A module that is not there, as with an agent that was built elsewhere, has the licence
// "unknown".
func moduleLicence(module, version string) string {
	cache := os.Getenv("GOMODCACHE")
	if cache == "" {
		gopath := os.Getenv("GOPATH")
		if gopath == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return unknown
			}
			gopath = filepath.Join(home, "go")
		}
		cache = filepath.Join(filepath.SplitList(gopath)[0], "pkg", "mod")
	}
	dir := filepath.Join(cache, filepath.FromSlash(escapeModule(module)+"@"+escapeModule(version)))
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"} {
		if data, err := readBounded(filepath.Join(dir, name), 1<<20); err == nil {
			return licenceOf(string(data))
		}
	}
	return unknown
}

// escapeModule spells capital letters as the module cache does.
func escapeModule(s string) string {
	return capital.ReplaceAllStringFunc(s, func(c string) string { return "!" + strings.ToLower(c) })
}

var capital = regexp.MustCompile(`[A-Z]`)

// licenceOf names a licence by sentences that only it has. The order matters: longer licences
// contain sentences of shorter ones.
func licenceOf(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, l := range []struct{ name, has string }{
		{"Apache-2.0", "Apache License Version 2.0"},
		{"MPL-2.0", "Mozilla Public License Version 2.0"},
		{"MPL-2.0", "Mozilla Public License, version 2.0"},
		{"BSD-3-Clause", "may be used to endorse or promote products"},
		{"BSD-2-Clause", "Redistributions in binary form must reproduce"},
		{"ISC", "Permission to use, copy, modify, and/or distribute this software"},
		{"ISC", "Permission to use, copy, modify, and distribute this software for any purpose with or without fee"},
		{"MIT", "Permission is hereby granted, free of charge"},
	} {
		if strings.Contains(text, l.has) {
			return l.name
		}
	}
	return unknown
}
