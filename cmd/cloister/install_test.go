// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestAgentPlaces: the agent of the same DESTDIR and PREFIX is found before that of another
// installation.
func TestAgentPlaces(t *testing.T) {
	got := agentPlaces("/dest/opt/c/bin/cloister")
	want := []string{
		"/dest/opt/c/bin/cloister-agent", "/dest/opt/c/libexec/cloister/cloister-agent",
		"/usr/libexec/cloister/cloister-agent", "/usr/local/libexec/cloister/cloister-agent",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("agentPlaces (-want +got):\n%s", diff)
	}
}

// TestInstallKubernetes prints an overhead that is the accelerator's and the pod's.
func TestInstallKubernetes(t *testing.T) {
	s := fakeSite(t, nil)
	printed := map[string]int{}
	for _, args := range []string{
		"--accel kvm --pod-memory 64", "--accel tcg --pod-memory 64",
		"--accel tcg --pod-memory 4096", "--memory 77",
	} {
		out, messages, err := s.command(t, append([]string{"install", "kubernetes"}, strings.Fields(args)...)...)
		if err != nil {
			t.Fatalf("%s: %v, %s", args, err, messages)
		}
		var class struct {
			Overhead struct {
				PodFixed struct{ Memory, CPU string }
			}
		}
		if err := yaml.Unmarshal([]byte(out), &class); err != nil {
			t.Fatal(err)
		}
		n := 0
		if _, err := fmt.Sscanf(class.Overhead.PodFixed.Memory, "%dMi", &n); err != nil {
			t.Fatalf("%s: %q", args, out)
		}
		printed[args] = n
	}
	if kvm, tcg, large := printed["--accel kvm --pod-memory 64"], printed["--accel tcg --pod-memory 64"],
		printed["--accel tcg --pod-memory 4096"]; kvm >= tcg || tcg >= large {
		t.Errorf("printed %v, want more under emulation, and more for a larger pod", printed)
	}
	if printed["--memory 77"] != 77 {
		t.Errorf("printed %v", printed)
	}
	if _, _, err := s.command(t, "install", "kubernetes", "--accel", "xen"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("--accel xen: %v", err)
	}
}
