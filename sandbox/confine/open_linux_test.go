// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/labels"
	"cloister/oci"
)

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
		config Config
		said   oci.LabelSettings
		want   labels.Wish
		ok     bool
	}{
		{"nothing", Config{}, oci.LabelSettings{}, labels.Wish{}, true},
		{
			"config",
			Config{Base: "u:r:base_t:s0", Share: "a"},
			oci.LabelSettings{},
			labels.Wish{Base: parse("u:r:base_t:s0"), Share: "a"},
			true,
		},
		{
			"annotation",
			Config{Share: "a"},
			oci.LabelSettings{Mode: "static", Label: "u:r:t:s0:c1,c2", Relabel: "no", Share: "b"},
			labels.Wish{Mode: labels.Static, Label: parse("u:r:t:s0:c1,c2"), Relabel: &no, Share: "b"},
			true,
		},
		{
			"engine's level",
			Config{},
			oci.LabelSettings{},
			labels.Wish{Engine: parse("u:r:c:s0:c1,c2"), EngineMount: parse("u:object_r:f:s0:c1,c2")},
			true,
		},
		{"engine's level ignored", Config{EngineLevels: "ignore"}, oci.LabelSettings{}, labels.Wish{}, true},
		{"engine's level, unknown setting", Config{EngineLevels: "no"}, oci.LabelSettings{}, labels.Wish{}, false},
		{"disabled by its engine", Config{}, oci.LabelSettings{}, labels.Wish{Disabled: true}, true},
		{"disabled by its engine, by name", Config{EngineDisable: "refuse"}, oci.LabelSettings{}, labels.Wish{Disabled: true}, true},
		{"disabled by its engine, confined", Config{EngineDisable: "confine"}, oci.LabelSettings{}, labels.Wish{}, true},
		{"disabled by its engine, unknown setting", Config{EngineDisable: "yes"}, oci.LabelSettings{}, labels.Wish{}, false},
		{"no label at all", Config{}, oci.LabelSettings{Label: "u:r"}, labels.Wish{}, false},
		{"none without its name", Config{Mode: "none"}, oci.LabelSettings{}, labels.Wish{}, false},
	} {
		var engine oci.Labels
		if strings.HasPrefix(tt.name, "engine") {
			engine = oci.Labels{Process: "u:r:c:s0:c1,c2", Mount: "u:object_r:f:s0:c1,c2"}
		}
		engine.Disable = strings.HasPrefix(tt.name, "disabled")
		got, err := Wish(SELinux, tt.config, tt.said, engine)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %t", tt.name, err, tt.ok)
		} else if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b labels.Label) bool { return a == b })); tt.ok && d != "" {
			t.Errorf("%s: wish (-want +got):\n%s", tt.name, d)
		}
	}
	for _, m := range []MAC{AppArmor, None} {
		got, err := Wish(m, Config{}, oci.LabelSettings{}, oci.Labels{Process: "u:r:c:s0:c1,c2", Disable: true})
		if err != nil || !cmp.Equal(got, labels.Wish{}, cmp.Comparer(func(a, b labels.Label) bool { return a == b })) {
			t.Errorf("Wish for %s, which uses no labels = %+v, %v, want none", m, got, err)
		}
	}
}
