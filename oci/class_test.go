// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestClassOf(t *testing.T) {
	on := []string{AnnotationClass}
	tests := []struct {
		name       string
		configured Class
		switched   []string
		annotation string
		want       Class
		names      string // what the error names
	}{
		{"the default", "", nil, "", ClassVM, ""},
		{"configured", ClassProcess, nil, "", ClassProcess, ""},
		{"raised", ClassProcess, on, "vm", ClassVM, ""},
		{"the same", ClassProcess, on, "process", ClassProcess, ""},
		{"the same machine", ClassVM, on, "vm", ClassVM, ""},
		{"raised where that is off", ClassProcess, nil, "vm", "", "workloads.annotations"},
		{"lowered", ClassVM, on, "process", "", "would lower"},
		{"lowered from the default", "", on, "process", "", "would lower"},
		{"unknown", ClassProcess, on, "jail", "", "neither vm nor process"},
		{"configured wrongly", "jail", nil, "", "", "set class to vm or process"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := base()
			if tt.annotation != "" {
				s.Annotations = map[string]string{AnnotationClass: tt.annotation}
			}
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ClassOf(data, tt.configured, Options{Annotations: tt.switched})
			if got != tt.want || (err != nil) != (tt.names != "") {
				t.Fatalf("ClassOf = %q, %v, want %q", got, err, tt.want)
			}
			if err != nil && (!errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), tt.names)) {
				t.Errorf("ClassOf error = %v, want one that names %q", err, tt.names)
			}
		})
	}
}

// containerRules are the verdicts of class process that differ from those about a guest. The OCI
// runtime of the host honours what a guest's cannot, and what a guest has of its own is the host's
// here.
func containerRules() map[string]verdict {
	return map[string]verdict{
		"Hooks.CreateContainer":                guest,
		"Hooks.StartContainer":                 guest,
		"Process.ApparmorProfile":              guest,
		"Process.SelinuxLabel":                 host,
		"LinuxResources.Rdma":                  guest,
		"LinuxHugepageLimit.Limit":             guest,
		"LinuxSeccomp.ListenerPath":            guest,
		"LinuxSeccomp.ListenerMetadata":        guest,
		"Mount.UIDMappings":                    guest,
		"Mount.GIDMappings":                    guest,
		"LinuxMemory.CheckBeforeUpdate":        guest,
		"LinuxBlockIO.ThrottleReadBpsDevice":   guest,
		"LinuxBlockIO.ThrottleWriteBpsDevice":  guest,
		"LinuxBlockIO.ThrottleReadIOPSDevice":  guest,
		"LinuxBlockIO.ThrottleWriteIOPSDevice": guest,
	}
}

// containerOutcome parses a configuration of class process and gives what the OCI runtime and the
// host get of it.
func containerOutcome(t *testing.T, s *specs.Spec) (w *Workload, hostSide, runtimeSide string, err error) {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if w, err = ParseContainer(data, Options{}); err != nil {
		return nil, "", "", err
	}
	plain := *w
	plain.spec, plain.Ignored = nil, nil
	h, err := json.Marshal(plain) //nolint:musttag // to compare, not to keep
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.ContainerSpec(ContainerInput{Root: "/r", Label: "l", MountLabel: "m", CgroupsPath: "/c"})
	if err != nil {
		t.Fatal(err)
	}
	return w, string(h), string(r), nil
}

// TestContainerFields shows for each field of the specification that class process honours it or
// refuses it by name. TestFieldsAreListed keeps the table complete.
func TestContainerFields(t *testing.T) {
	for _, r := range rules() {
		v := r.verdict
		if own, ok := containerRules()[r.field]; ok {
			v = own
		}
		if v == group || v == nothing {
			continue
		}
		t.Run(r.field, func(t *testing.T) {
			s := base()
			if r.on != nil && v != refused {
				r.on(s)
			}
			_, baseHost, baseRuntime, err := containerOutcome(t, s)
			if err != nil {
				t.Fatal(err)
			}
			if r.on != nil && v == refused {
				r.on(s)
			}
			r.set(s)
			w, h, spec, err := containerOutcome(t, s)
			switch v {
			case refused:
				unsupported, ok := errors.AsType[*UnsupportedError](err)
				if !ok || !names(unsupported.Problems, r.names) {
					t.Errorf("ParseContainer error = %v, want one that names %s", err, r.names)
				}
			case ignored:
				if err != nil || !names(w.Ignored, r.names) {
					t.Errorf("Ignored = %v, %v, want %s", w, err, r.names)
				}
			default:
				if err != nil || h == baseHost && spec == baseRuntime {
					t.Errorf("neither the workload nor the OCI runtime's configuration shows %s (%v)", r.field, err)
				}
			}
		})
	}
}

// TestContainerPropagation: a volume whose mounts are to reach the host is refused by name, and the
// other kinds of propagation are passed on.
func TestContainerPropagation(t *testing.T) {
	for option, refused := range map[string]bool{
		"shared": true, "rshared": true, "slave": false, "rslave": false, "private": false, "rprivate": false, "unbindable": false,
	} {
		s := base()
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Source: "/v", Type: "bind", Options: []string{"rbind", option}})
		_, _, spec, err := containerOutcome(t, s)
		if refused != (err != nil) || refused && !strings.Contains(err.Error(), `"`+option+`"`) ||
			!refused && !strings.Contains(spec, `"`+option+`"`) {
			t.Errorf("%s: %v, want it refused by name: %t, else passed on: %s", option, err, refused, spec)
		}
	}
}

// TestContainerSpec has what the host decides in the place of what the engine said.
func TestContainerSpec(t *testing.T) {
	s := base()
	s.Process.SelinuxLabel, s.Linux.MountLabel = "engine's", "engine's"
	s.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: "/link", Options: []string{"rbind"}}}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseContainer(data, Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.ContainerSpec(ContainerInput{
		Root: "/r", Label: "l", MountLabel: "m", Profile: "p", CgroupsPath: "/c",
		Sources: map[int]string{0: "/real"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.Process.SelinuxLabel != "l" || got.Linux.MountLabel != "m" || got.Root.Path != "/r" ||
		got.Process.ApparmorProfile != "p" || got.Linux.CgroupsPath != "/c" || got.Mounts[0].Source != "/real" {
		t.Errorf("ContainerSpec = %s", out)
	}
	if s.Mounts[0].Source != "/link" || w.spec.Process.SelinuxLabel != "engine's" || w.spec.Process.ApparmorProfile != "" {
		t.Error("ContainerSpec changed the workload")
	}
}
