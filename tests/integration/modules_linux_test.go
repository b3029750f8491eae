// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestUsersLoadOneModule has a container's user, without a capability, ask for things that a kernel
// looks up a module for. The small kernel has none. A distribution's loads what was asked for with
// what that needs, and nothing else of what the image has.
func TestUsersLoadOneModule(t *testing.T) {
	if !isCloister() {
		t.Skip("the modules are the host's")
	}
	b := newBed(t, host.Options{})
	dir := b.program(t, "asks")
	r := b.run(t, "c", []string{"--user", "1000", "--mount", "type=bind,src=" + dir + ",dst=/programs,options=rbind:ro"}, "/programs/asks")
	t.Logf("asks:\n%s", r.Stdout)
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "uid 1000\n") || !strings.HasSuffix(r.Stdout, "end\n") {
		t.Fatalf("asks = %+v", r)
	}
	loads := map[string]string{}
	for line := range strings.Lines(r.Stdout) {
		ask, modules, _ := strings.Cut(strings.TrimSpace(line), " ")
		loads[ask] = modules
	}
	delete(loads, "uid")
	namespace := loads["namespace"] == "<nil>"
	delete(loads, "namespace")
	delete(loads, "end")
	want := map[string]string{}
	if os.Getenv("CLOISTER_GUEST") == "distro" {
		want["netlink-12"] = "nfnetlink"
		if namespace {
			want["mount-squashfs"], want["mount-xfs"] = "squashfs", "xfs"
		}
	}
	for ask, modules := range loads {
		if want[ask] != modules {
			t.Errorf("%s has loaded %s, want only %q", ask, modules, want[ask])
		}
	}
	for ask, modules := range want {
		if loads[ask] == "" {
			t.Errorf("%s has loaded nothing, want %s", ask, modules)
		}
	}
}
