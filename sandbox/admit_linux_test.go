// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/oci"
	"cloister/sandbox/plan"
)

// TestAdmitWithoutLabels: what cannot be honoured is refused where nothing is labelled.
func TestAdmitWithoutLabels(t *testing.T) {
	driver, err := lsm.Open(lsm.Options{Mode: lsm.ModeNone})
	if err != nil {
		t.Skipf("needs a host that does not enforce: %v", err)
	}
	i := &identity{driver: driver}
	folder, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	for sharing, ok := range map[labels.Sharing]bool{"": true, labels.Keep: true, labels.Private: false, labels.Shared: false} {
		if err := i.admit(t.Context(), folder, folder, plan.Treatment{Sharing: sharing}); (err == nil) != ok || !ok && !errors.Is(err, labels.ErrWish) {
			t.Errorf("admit as %q = %v, want ok %t", sharing, err, ok)
		}
	}
}

// TestWish: an annotation takes the place of what the config says.
func TestWish(t *testing.T) {
	parse := func(text string) labels.Label {
		l, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	no := false
	for _, tt := range []struct {
		name   string
		config Labels
		said   oci.LabelSettings
		mode   lsm.Mode
		want   labels.Wish
		ok     bool
	}{
		{"nothing", Labels{}, oci.LabelSettings{}, lsm.ModeSELinux, labels.Wish{}, true},
		{"config", Labels{Base: "u:r:base_t:s0", Share: "a"}, oci.LabelSettings{}, lsm.ModeSELinux, labels.Wish{Base: parse("u:r:base_t:s0"), Share: "a"}, true},
		{
			"annotation",
			Labels{Share: "a"},
			oci.LabelSettings{Mode: "static", Label: "u:r:t:s0:c1,c2", Relabel: "no", Share: "b"},
			lsm.ModeSELinux,
			labels.Wish{Mode: labels.Static, Label: parse("u:r:t:s0:c1,c2"), Relabel: &no, Share: "b"},
			true,
		},
		{"engine's level", Labels{}, oci.LabelSettings{}, lsm.ModeSELinux, labels.Wish{Engine: parse("u:r:c:s0:c1,c2"), EngineMount: parse("u:object_r:f:s0:c1,c2")}, true},
		{"engine's level ignored", Labels{EngineLevels: "ignore"}, oci.LabelSettings{}, lsm.ModeSELinux, labels.Wish{}, true},
		{"engine's level, unknown setting", Labels{EngineLevels: "no"}, oci.LabelSettings{}, lsm.ModeSELinux, labels.Wish{}, false},
		{"no label at all", Labels{}, oci.LabelSettings{Label: "u:r"}, lsm.ModeSELinux, labels.Wish{}, false},
		{"nothing is labelled here", Labels{}, oci.LabelSettings{Share: "b"}, lsm.ModeNone, labels.Wish{}, false},
		{"none without its name", Labels{Mode: "none"}, oci.LabelSettings{}, lsm.ModeSELinux, labels.Wish{}, false},
	} {
		workload := &oci.Workload{Settings: oci.Settings{Labels: tt.said}}
		if strings.HasPrefix(tt.name, "engine") {
			workload.Labels = oci.Labels{Process: "u:r:c:s0:c1,c2", Mount: "u:object_r:f:s0:c1,c2"}
		}
		got, err := wish(tt.config, Request{Workload: workload}, tt.mode)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %t", tt.name, err, tt.ok)
		} else if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b labels.Label) bool { return a == b })); tt.ok && d != "" {
			t.Errorf("%s: wish (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestTenant(t *testing.T) {
	for namespace, want := range map[string]string{"": "k8s.io", "red": "k8s.io/red"} {
		if got := tenant(Request{Namespace: "k8s.io", Workload: &oci.Workload{PodNamespace: namespace}}); got != want {
			t.Errorf("tenant of a pod in %q = %q, want %q", namespace, got, want)
		}
	}
}
