// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloister/tests/cache"
)

// All lists the sets that most tests need, in the order of their names.
func All() []Set {
	var sets []Set
	for set, r := range recipes() {
		if set == GVisor || r.Folder != "" || r.Package != "" && !hasPackages() {
			continue
		}
		sets = append(sets, set)
	}
	slices.Sort(sets)
	return sets
}

// Build makes the sets that are not in the cache yet and says on out what it does.
func Build(ctx context.Context, out io.Writer, sets ...Set) error {
	for _, set := range sets {
		if _, ok := recipes()[set]; !ok {
			return fmt.Errorf("no client set %q: there are %v", set, All())
		}
		if err := build(ctx, out, set); err != nil {
			return fmt.Errorf("build %s into %s: %w", set, Dir(set), err)
		}
	}
	return nil
}

// build makes one set unless it is there.
func build(ctx context.Context, out io.Writer, set Set) error {
	dir := Dir(set)
	return cache.Make(dir, func() error { return buildInto(ctx, out, set, dir) })
}

// buildInto makes one set beside its place and moves it there when it is whole.
func buildInto(ctx context.Context, out io.Writer, set Set, dir string) error {
	begin := time.Now()
	fmt.Fprintf(out, "%s: building into %s\n", set, dir)
	scratch, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	bin := filepath.Join(scratch, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	switch r := recipes()[set]; {
	case r.Package != "":
		err = unpack(ctx, out, r.Package, scratch, bin)
	case r.versions() == "":
		err = install(ctx, out, r, bin)
	default:
		err = compile(ctx, out, r, scratch, bin)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(bin, dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: built in %d s\n", set, int(time.Since(begin).Seconds()))
	return nil
}

func install(ctx context.Context, out io.Writer, r recipe, bin string) error {
	packages := r.Packages
	if len(packages) == 0 {
		packages = []string{""}
	}
	args := append([]string{"install"}, r.flags()...)
	for _, name := range packages {
		args = append(args, path.Join(r.Module, name)+"@"+r.Version)
	}
	cmd := goCommand(ctx, out, r, args...)
	cmd.Dir = bin // outside of this module
	cmd.Env = append(cmd.Env, "GOBIN="+bin)
	if err := cmd.Run(); err != nil || len(r.Files) == 0 {
		return err
	}
	source, err := r.source(ctx, out, bin)
	if err != nil {
		return err
	}
	for _, name := range r.Files {
		data, err := os.ReadFile(filepath.Join(source, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(bin, filepath.Base(name)), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// source downloads the module and gives the folder of its files. dir is outside of this module.
func (r recipe) source(ctx context.Context, out io.Writer, dir string) (string, error) {
	cmd := goCommand(ctx, out, r, "mod", "download", "-json", r.Module+"@"+r.Version)
	cmd.Dir, cmd.Stdout = dir, nil
	data, err := cmd.Output()
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	return module.Dir, json.Unmarshal(data, &module)
}

func (r recipe) versions() string {
	if r.Versions == "" && (r.Test != "" || r.Tests) {
		return "go"
	}
	return r.Versions
}

func (r recipe) flags() []string {
	flags := []string{"-trimpath", "-tags", r.Tags}
	if r.Linker != "" {
		flags = append(flags, "-ldflags", r.Linker)
	}
	if r.Compiler != "" {
		flags = append(flags, "-gcflags", r.Compiler)
	}
	return flags
}

// compile makes a dependency's test binary or its commands, in a module of its own that takes over
// the dependency's own versions.
func compile(ctx context.Context, out io.Writer, r recipe, scratch, bin string) error {
	source, err := r.source(ctx, out, scratch)
	if err != nil {
		return err
	}
	for _, kind := range []string{".mod", ".sum"} {
		data, err := os.ReadFile(filepath.Join(source, r.versions()+kind))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(scratch, "go"+kind), data, 0o600); err != nil {
			return err
		}
	}
	change := []string{"mod", "edit", "-module", "clients", "-require", r.Module + "@" + r.Version}
	if name, _, ok := strings.Cut(r.Replace, "@"); ok {
		change = append(change, "-replace", name+"="+r.Replace)
	}
	published, err := r.published(ctx, out, scratch)
	if err != nil {
		return err
	}
	change = append(change, published...)
	edit := goCommand(ctx, out, r, change...)
	args := append([]string{"build", "-mod=mod", "-o", bin + "/"}, r.flags()...)
	if r.Test != "" {
		args = append([]string{"test", "-c", "-mod=mod", "-o", filepath.Join(bin, r.Test)}, r.flags()...)
	}
	if r.Tests {
		args = append([]string{"test", "-c", "-mod=mod", "-o", bin + "/"}, r.flags()...)
	}
	for _, name := range r.Packages {
		args = append(args, path.Join(r.Module, name))
		if err := r.copyTestdata(filepath.Join(source, name), bin); err != nil {
			return err
		}
	}
	for _, cmd := range []*exec.Cmd{edit, goCommand(ctx, out, r, args...)} {
		cmd.Dir = scratch
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	return nil
}

// published gives the changes that take the place of a module's folders of its own, which its
// archive lacks: the same modules as they are published.
func (r recipe) published(ctx context.Context, out io.Writer, dir string) ([]string, error) {
	read := goCommand(ctx, out, r, "mod", "edit", "-json")
	read.Dir, read.Stdout = dir, nil
	text, err := read.Output()
	if err != nil {
		return nil, err
	}
	var file struct {
		Replace []struct{ Old, New struct{ Path string } }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	var changes []string
	for _, replaced := range file.Replace {
		name := replaced.Old.Path
		switch {
		case !strings.HasPrefix(replaced.New.Path, "."):
		case r.Staging != "":
			changes = append(changes, "-replace", name+"="+name+"@"+r.Staging)
		default:
			changes = append(changes, "-dropreplace", name)
		}
	}
	return changes, nil
}

// copyTestdata gives a test binary the testdata of its package, in a folder named like it.
func (r recipe) copyTestdata(source, bin string) error {
	data := filepath.Join(source, "testdata")
	if _, err := os.Stat(data); !r.Tests || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.CopyFS(filepath.Join(bin, filepath.Base(source), "testdata"), os.DirFS(data))
}

func goCommand(ctx context.Context, out io.Writer, r recipe, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cgo := "CGO_ENABLED=0"
	if r.CGO {
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), cgo, "GOFLAGS=-buildvcs=false")
	cmd.Stdout, cmd.Stderr = out, out
	return cmd
}
