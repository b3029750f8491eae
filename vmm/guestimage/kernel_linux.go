// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// recipe is part of every kernel's digest: change it when the same inputs shall give
// other bytes.
const recipe = "1"

const (
	kernelFile  = "kernel"
	kernelInfo  = "kernel.json"
	kernelLog   = "build.log"
	modulesDir  = "modules"
	maxKernel   = 512 << 20
	maxModule   = 64 << 20
	maxKernelIn = 1 << 20
)

// kernelSet is one kernel in the cache: a folder with the kernel, its modules and this description.
// The description is the last file written, and the folder is swapped in whole.
type kernelSet struct {
	dir string
	// digest is over everything it was made from.
	digest string

	Release string  `json:"release"`
	Format  Format  `json:"format"`
	Package Package `json:"package"`
	// SHA256 is the kernel's own, to notice a damaged cache.
	SHA256 string `json:"sha256"`
	// Modules and Late are files in the modules folder in load order.
	Modules []string     `json:"modules"`
	Late    []lateModule `json:"late"`
}

// lateModule is loaded when the guest's kernel asks for it.
type lateModule struct {
	File string `json:"file"`
	// Needs are the names of late modules that must be loaded before, farthest first.
	Needs []string `json:"needs,omitempty"`
	// Names are what the kernel may ask for and mean this module: patterns of modules.alias.
	Names []string `json:"names,omitempty"`
}

// maker makes one kind of kernel.
type maker interface {
	// inputs names everything the result depends on.
	inputs(context.Context) ([]string, error)
	// make fills dir with the kernel and its modules, using work, an empty
	// folder that is removed afterwards.
	make(ctx context.Context, dir, work string) (kernelSet, error)
}

// digest is a SHA-256 over words; no two lists of words have the same, since each word's length is
// in it.
func digest(words ...string) string {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s\n", len(w), w)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// kernel returns the kernel from the cache, making it first when it is not there or damaged. Two
// builds of one kernel wait for each other.
func kernel(ctx context.Context, cache string, m maker, log progress) (kernelSet, error) {
	inputs, err := m.inputs(ctx)
	if err != nil {
		return kernelSet{}, err
	}
	sum := digest(append([]string{recipe}, inputs...)...)
	base := filepath.Join(cache, "kernel")
	dir := filepath.Join(base, sum)
	if err := makeDirs(base); err != nil {
		return kernelSet{}, fmt.Errorf("kernel cache: %w", err)
	}
	// What is there was swapped in whole, so a look needs no lock.
	k, err := openKernel(dir, sum)
	if err == nil {
		log.say("kernel %s: from the cache", k.Release)
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.say("cached kernel is unusable, building it again: %v", err)
	}
	unlock, err := lock(ctx, dir+".lock", func() { log.say("another build makes this kernel: waiting") })
	if err != nil {
		return kernelSet{}, err
	}
	defer unlock()
	if k, err := openKernel(dir, sum); err == nil {
		return k, nil // made while this one waited
	}
	if err := makeKernel(ctx, m, dir); err != nil {
		return kernelSet{}, err
	}
	return openKernel(dir, sum)
}

// makeKernel wants the kernel's lock held. It works in a folder beside the cache's and swaps the
// result in. So a build that is killed leaves no half of a kernel under the name of a whole one.
func makeKernel(ctx context.Context, m maker, dir string) (err error) {
	work := dir + ".work"
	if err := os.RemoveAll(work); err != nil { // of a build that was killed
		return fmt.Errorf("kernel cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	out, build := filepath.Join(work, "out"), filepath.Join(work, "build")
	if err := errors.Join(makeDirs(out), makeDirs(build)); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	k, err := m.make(ctx, out, build)
	if err != nil {
		return err
	}
	if k.SHA256, err = fileSum(filepath.Join(out, kernelFile)); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if err := writeFile(filepath.Join(out, kernelInfo), append(data, '\n')); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return swapIn(out, dir)
}

// openKernel reads a cached kernel and checks it. Names of modules become paths: they are plain
// file names.
func openKernel(dir, sum string) (kernelSet, error) {
	data, err := readBounded(filepath.Join(dir, kernelInfo), maxKernelIn)
	if err != nil {
		return kernelSet{}, err
	}
	k := kernelSet{dir: dir, digest: sum}
	if err := json.Unmarshal(data, &k); err != nil {
		return kernelSet{}, fmt.Errorf("%s: %w", kernelInfo, err)
	}
	if err := checkSum(filepath.Join(dir, kernelFile), k.SHA256); err != nil {
		return kernelSet{}, err
	}
	names := slices.Clone(k.Modules)
	for _, l := range k.Late {
		names = append(names, l.File)
	}
	for _, name := range names {
		if filepath.Base(name) != name || !strings.HasSuffix(name, ".ko") {
			return kernelSet{}, fmt.Errorf("%s: module %q", kernelInfo, name)
		}
		if _, err := os.Stat(k.module(name)); err != nil {
			return kernelSet{}, fmt.Errorf("module: %w", err)
		}
	}
	return k, nil
}

// path is the kernel's file.
func (k kernelSet) path() string { return filepath.Join(k.dir, kernelFile) }

// module is the file of a module by its name in the list.
func (k kernelSet) module(name string) string { return filepath.Join(k.dir, modulesDir, name) }
