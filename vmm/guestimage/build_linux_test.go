// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// fakeKernel is a maker whose kernel is a few bytes.
type fakeKernel struct{ made int }

func (*fakeKernel) inputs(context.Context) ([]string, error) { return []string{"fake"}, nil }

func (f *fakeKernel) make(_ context.Context, dir, _ string) (kernelSet, error) {
	f.made++
	k := kernelSet{
		Release: "6.0-fake", Format: BzImage, Package: Package{Kind: "deb", Name: "linux-fake", Version: "6.0-1", Licence: "GPL-2"},
		Modules: []string{"virtio.ko"}, Late: []lateModule{{File: "tun.ko", Names: []string{"char-major-10-200"}}},
	}
	return k, errors.Join(
		os.Mkdir(filepath.Join(dir, modulesDir), 0o755),
		os.WriteFile(filepath.Join(dir, kernelFile), []byte("kernel"), 0o644),
		os.WriteFile(filepath.Join(dir, modulesDir, "virtio.ko"), []byte("virtio"), 0o644),
		os.WriteFile(filepath.Join(dir, modulesDir, "tun.ko"), []byte("tun"), 0o644),
	)
}

// fakeVersion is what a fakeAgent prints for its version, and what no build information holds.
const fakeVersion = "1.2.3-4-gabcdef+changes"

const fakeMain = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"" + fakeVersion + "\") }\n"

// fakeAgent compiles a program that calls itself by the given name.
func fakeAgent(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"go.mod": "module example.org/x\ngo 1.21\n", name + "/main.go": fakeMain})
	out := filepath.Join(dir, "agent")
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "go"), "build", "-o", out, "./"+name)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return out
}

// testOptions builds with a program every system has in crun's place.
func testOptions(t *testing.T, agent string) Options {
	t.Helper()
	dir := t.TempDir()
	return Options{
		Flavour: Distro, Output: filepath.Join(dir, "image"), Agent: agent, Protocol: 1,
		Crun: testenv.NeedTool(t, "tar"), Root: "/", Cache: filepath.Join(dir, "cache"),
	}
}

// TestBuild compiles one agent for all of its parts.
func TestBuild(t *testing.T) {
	agent := fakeAgent(t, agentName)
	for name, test := range map[string]func(*testing.T, string){
		"reproducible": testBuildIsReproducible, "replaces damaged": testBuildReplacesDamagedCacheAndImage,
		"refuses": testBuildRefuses, "notices damage": testOpenNoticesDamage,
		"update fails": testUpdateKeepsOldImageOnError, "two updates": testTwoUpdatesAtOnce, "full disk": testUpdateOnFullDisk,
	} {
		t.Run(name, func(t *testing.T) { test(t, agent) })
	}
}

func readAll(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{KernelName, InitrdName, ManifestName} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = data
	}
	return out
}

func testBuildIsReproducible(t *testing.T, agent string) {
	t.Helper()
	opts, k := testOptions(t, agent), &fakeKernel{}
	first, err := opts.build(t.Context(), k, progress{})
	if err != nil {
		t.Fatal(err)
	}
	want := readAll(t, first.Dir)
	if got := first.Manifest.Agent.Version; got != fakeVersion {
		t.Errorf("the agent's version = %q, want the stamped one, %q", got, fakeVersion)
	}

	stat, err := os.Stat(first.Initrd())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opts.build(t.Context(), k, progress{}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(first.Initrd()); err != nil || !os.SameFile(stat, again) {
		t.Errorf("a second build replaced an image that was up to date (%v)", err)
	}

	opts.Output, opts.Cache = filepath.Join(t.TempDir(), "deep", "other"), t.TempDir()
	other, err := opts.build(t.Context(), k, progress{})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range readAll(t, other.Dir) {
		if !bytes.Equal(data, want[name]) {
			t.Errorf("%s differs between two builds", name)
		}
	}
	if k.made != 2 {
		t.Errorf("kernel made %d times, want once for each cache", k.made)
	}
	m := other.Manifest
	if want := []string{"/lib/modules/6.0-fake/virtio.ko"}; !slices.Equal(m.Modules, want) {
		t.Errorf("modules = %q, want %q", m.Modules, want)
	}
	if want := []string{"/lib/modules/6.0-fake/tun.ko.gz"}; !slices.Equal(m.LateModules, want) {
		t.Errorf("late modules = %q, want %q", m.LateModules, want)
	}
	if !slices.ContainsFunc(m.Packages, func(p Package) bool { return p.Name == "linux-fake" && p.Licence == "GPL-2" }) {
		t.Error("the kernel's package is not in the manifest")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(other.Dir), ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func testBuildReplacesDamagedCacheAndImage(t *testing.T, agent string) {
	t.Helper()
	opts, k := testOptions(t, agent), &fakeKernel{}
	image, err := opts.build(t.Context(), k, progress{})
	if err != nil {
		t.Fatal(err)
	}
	kernels, err := filepath.Glob(filepath.Join(opts.Cache, "kernel", "*", kernelFile))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("kernels in the cache: %q, %v", kernels, err)
	}
	for _, file := range []string{kernels[0], image.Initrd()} {
		if err := os.WriteFile(file, []byte("broken"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stale := filepath.Dir(kernels[0]) + ".work"
	write(t, stale, map[string]string{"out/kernel": "half", "build/vmlinux": "half"})
	if image, err = opts.build(t.Context(), k, progress{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a killed build's folder is still there: %v", err)
	}
	if err := image.Verify(); err != nil || k.made != 2 {
		t.Errorf("Verify = %v with the kernel made %d times, want it built again", err, k.made)
	}
}

func testBuildRefuses(t *testing.T, agent string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"text": "hello"})
	for _, tt := range []struct {
		name string
		edit func(*Options)
		want string
		is   error
	}{
		{"no crun", func(o *Options) { o.Crun = "/usr/bin/no-such-crun" }, "install the package crun", fs.ErrNotExist},
		{"crun is text", func(o *Options) { o.Root, o.Crun = dir, "/text" }, "crun: ", nil},
		{"no agent", func(o *Options) { o.Agent = "/no/such/agent" }, "/no/such/agent", fs.ErrNotExist},
		{"agent is text", func(o *Options) { o.Agent = filepath.Join(dir, "text") }, "text", ErrAgent},
		{"other program", func(o *Options) { o.Agent = fakeAgent(t, "tool") }, "example.org/x/tool", ErrAgent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := testOptions(t, agent)
			tt.edit(&opts)
			_, err := opts.build(t.Context(), &fakeKernel{}, progress{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("build = %v, want %q (%v)", err, tt.want, tt.is)
			}
			if _, err := os.Stat(opts.Output); err == nil {
				t.Error("a refused build left an image")
			}
		})
	}
	_, err := inspectAgent(t.Context(), agent, "other")
	if !errors.Is(err, ErrAgent) || !strings.Contains(err.Error(), "want linux/other") {
		t.Errorf("inspectAgent for another architecture = %v, want ErrAgent", err)
	}
	for _, opts := range []Options{{}, {Flavour: "big"}, {Flavour: Small, Output: "x", Agent: "y", Crun: "z"}} {
		if _, err := Build(t.Context(), opts); err == nil {
			t.Errorf("Build(%+v) gave no error", opts)
		}
	}
}

func TestBuildStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (command{name: "sleep", args: []string{"60"}}).run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("run = %v, want %v", err, context.Canceled)
	}
}

func testOpenNoticesDamage(t *testing.T, agent string) {
	t.Helper()
	opts := testOptions(t, agent)
	image, err := opts.build(t.Context(), &fakeKernel{}, progress{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(image.Initrd())
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(image.Initrd(), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if image, err = Open(image.Dir); err != nil {
		t.Fatal(err)
	}
	if err := image.Verify(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), InitrdName) {
		t.Errorf("Verify after a flipped bit = %v, want ErrDamaged for %s", err, InitrdName)
	}
	if err := os.Truncate(image.Initrd(), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(image.Dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("Open of a truncated image = %v, want ErrDamaged", err)
	}
	if err := os.Truncate(filepath.Join(image.Dir, ManifestName), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(image.Dir); !errors.Is(err, ErrManifest) {
		t.Errorf("Open with a truncated manifest = %v, want ErrManifest", err)
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "guest build") {
		t.Errorf("Open of an empty folder = %v, want what to do", err)
	}
}
