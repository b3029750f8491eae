// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Tree returns the folder of this module's go.mod.
func Tree(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the working folder: run the test by go test")
	return ""
}

// Build returns the folder of the built programs: CLOISTER_BUILD, or build in the tree.
func Build(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("CLOISTER_BUILD"); dir != "" {
		return dir
	}
	return filepath.Join(Tree(t), "build")
}

// Cache returns the folder of what is slow to make and keyed by content: CLOISTER_CACHE, or
// /var/cache/cloister.
func Cache() string {
	if dir := os.Getenv("CLOISTER_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/cloister"
}

// cold are the tests whose sandboxes start cold in every run: one or two of the stages that have
// the others start from a template. The stage docker has one engine for all its tests.
var cold = []string{
	"TestSmoke", "TestSpecFields", // integration
	"TestVolumes",               // files
	"TestPodSandbox",            // cri
	"TestSysctls",               // networks
	"TestShimKilledAtEveryStep", // crash; TestTemplateStartKilledAtEveryStep has the other start
}

// Templates reports whether the sandboxes of a test start from a template where one fits:
// CLOISTER_TEST_TEMPLATES is on. Else they start cold, unless the test says otherwise.
func Templates(t testing.TB) bool {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	return os.Getenv("CLOISTER_TEST_TEMPLATES") == "on" && !slices.Contains(cold, name)
}

// NeedShim needs the shim and the command line to be built, and returns their folder.
func NeedShim(t testing.TB) string {
	t.Helper()
	dir := Build(t)
	NeedFile(t, Shim, []string{dir}, "containerd-shim-cloister-v2")
	NeedFile(t, Shim, []string{dir}, "cloister")
	return dir
}

// NeedSandbox needs what a container in a guest takes: busybox for its image, overlayfs for its
// root file system, the shim, a guest image, QEMU and virtiofsd. It returns busybox's path.
func NeedSandbox(t testing.TB) string {
	t.Helper()
	busybox := NeedBusybox(t)
	NeedOverlay(t)
	NeedShim(t)
	NeedGuest(t)
	NeedQEMU(t)
	NeedVirtiofsd(t)
	return busybox
}

// NeedGuest needs a guest image of the flavour CLOISTER_GUEST (small when unset) and returns its
// folder.
func NeedGuest(t testing.TB) string {
	t.Helper()
	flavour := os.Getenv("CLOISTER_GUEST")
	if flavour == "" {
		flavour = "small"
	}
	dir := filepath.Join(Build(t), "guest", flavour)
	for _, name := range []string{"kernel", "initrd", "manifest.json"} {
		NeedFile(t, Guest, []string{dir}, name)
	}
	return dir
}
