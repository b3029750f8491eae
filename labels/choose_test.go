// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"errors"
	"testing"
)

func mustParse(t *testing.T, text string) Label {
	t.Helper()
	if text == "" {
		return Label{}
	}
	l, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestValidate(t *testing.T) {
	yes, no := true, false
	static := mustParse(t, "system_u:system_r:svirt_t:s0:c1,c2")
	tests := []struct {
		name      string
		wish      Wish
		enforcing bool
		wantErr   bool
	}{
		{"zero", Wish{}, true, false},
		{"dynamic, relabel no", Wish{Relabel: &no}, true, true},
		{"dynamic, relabel yes", Wish{Mode: Dynamic, Relabel: &yes}, true, false},
		{"dynamic with a label", Wish{Label: static}, true, true},
		{"dynamic with an image label", Wish{Image: static}, true, true},
		{"dynamic with a base label", Wish{Base: static}, true, false},
		{"static", Wish{Mode: Static, Label: static}, true, false},
		{"static, relabel", Wish{Mode: Static, Label: static, Relabel: &yes}, true, false},
		{"static without a label", Wish{Mode: Static}, true, true},
		{"static with a base label", Wish{Mode: Static, Label: static, Base: static}, true, true},
		{"static range", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s0-s0:c1,c2")}, true, true},
		{"static single category", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s0:c1")}, true, true},
		{"static low", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s0")}, true, true},
		{"static low, shared", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s0"), Share: "g"}, true, false},
		{"static sensitivity", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s3")}, true, false},
		{"static image elsewhere", Wish{Mode: Static, Label: static, Image: mustParse(t, "a:b:c:s0:c1,c3")}, true, true},
		{"none", Wish{Mode: None}, false, false},
		{"none while enforcing", Wish{Mode: None}, true, true},
		{"none, relabel", Wish{Mode: None, Relabel: &yes}, false, true},
		{"none with a label", Wish{Mode: None, Label: static}, false, true},
		{"none with a share", Wish{Mode: None, Share: "g"}, false, true},
		{"unknown", Wish{Mode: "mls"}, false, true},
		{"engine's pair", Wish{Engine: static, EngineMount: mustParse(t, "a:object_r:f:s0:c1,c2")}, true, false},
		{"engine's single category", Wish{Engine: mustParse(t, "a:b:c:s0:c1")}, true, true},
		{"engine's every category", Wish{Engine: mustParse(t, "a:b:c:s0:c0.c1023")}, true, true},
		{"engine's three categories", Wish{Engine: mustParse(t, "a:b:c:s0:c1,c2,c9")}, true, true},
		{"engine's mount at two pairs", Wish{EngineMount: mustParse(t, "a:object_r:f:s0:c1,c2,c3,c4")}, true, true},
		{"static with three categories", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s0:c1,c2,c9")}, true, true},
		{"static with three, shared", Wish{Mode: Static, Label: mustParse(t, "a:b:c:s0:c1,c2,c9"), Share: "g"}, true, false},
		{"engine's labels differ", Wish{Engine: static, EngineMount: mustParse(t, "a:object_r:f:s0:c1,c3")}, true, true},
		{"engine's own type", Wish{Engine: mustParse(t, "a:b:container_t:s0:c1,c2")}, true, false},
		{"a type that somebody chose", Wish{Engine: mustParse(t, "a:b:web_t:s0:c1,c2")}, true, true},
		{
			"a type that somebody chose, as base",
			Wish{Engine: mustParse(t, "system_u:system_r:web_t:s0:c1,c2"), Base: mustParse(t, "a:b:web_t:s0")},
			true, false,
		},
		{
			"a type that somebody chose, of another user",
			Wish{Engine: mustParse(t, "staff_u:system_r:web_t:s0:c1,c2"), Base: mustParse(t, "a:b:web_t:s0")},
			true, true,
		},
		{
			"a type that somebody chose, in another role",
			Wish{Engine: mustParse(t, "system_u:staff_r:web_t:s0:c1,c2"), Base: mustParse(t, "a:b:web_t:s0")},
			true, true,
		},
		{"label=disable", Wish{Disabled: true}, true, true},
		{"label=disable, static", Wish{Disabled: true, Mode: Static, Label: static}, true, true},
		{"label=disable where nothing enforces", Wish{Disabled: true}, false, false},
		{"engine's range", Wish{Engine: mustParse(t, "a:b:spc_t:s0-s0:c0.c1023")}, true, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.wish.Validate(test.enforcing)
			if (err != nil) != test.wantErr || (err != nil && !errors.Is(err, ErrWish)) {
				t.Errorf("Validate = %v, want error %v", err, test.wantErr)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	yes := true
	drawn := "s0:c7,c9"
	tests := []struct {
		name                  string
		wish                  Wish
		asked                 string // of the registry
		qemu, virtiofsd, disk string
		relabel               bool
	}{
		{
			"dynamic",
			Wish{},
			"",
			"system_u:system_r:cloister_qemu_t:s0:c7,c9", "system_u:system_r:cloister_virtiofsd_t:s0:c7,c9",
			"system_u:object_r:cloister_image_t:s0:c7,c9", true,
		},
		{
			"dynamic with a base label",
			Wish{Base: mustParse(t, "x:y:my_qemu_t:s5:c1,c2")},
			"",
			"system_u:system_r:my_qemu_t:s0:c7,c9", "system_u:system_r:cloister_virtiofsd_t:s0:c7,c9",
			"system_u:object_r:cloister_image_t:s0:c7,c9", true,
		},
		{
			"engine's level kept, type swapped",
			Wish{Engine: mustParse(t, "system_u:system_r:container_t:s0:c1,c2")},
			"s0:c1,c2",
			"system_u:system_r:cloister_qemu_t:s0:c1,c2", "system_u:system_r:cloister_virtiofsd_t:s0:c1,c2",
			"system_u:object_r:cloister_image_t:s0:c1,c2", true,
		},
		{
			"privileged",
			Wish{Engine: mustParse(t, "system_u:system_r:spc_t:s0-s0:c0.c1023")},
			"",
			"system_u:system_r:cloister_qemu_t:s0:c7,c9", "system_u:system_r:cloister_virtiofsd_t:s0:c7,c9",
			"system_u:object_r:cloister_image_t:s0:c7,c9", true,
		},
		{
			"shared pair ignores the engine's",
			Wish{Share: "g", Engine: mustParse(t, "system_u:system_r:container_t:s0:c1,c2")},
			"",
			"system_u:system_r:cloister_qemu_t:s0:c7,c9", "system_u:system_r:cloister_virtiofsd_t:s0:c7,c9",
			"system_u:object_r:cloister_image_t:s0:c7,c9", true,
		},
		{
			"static, no relabel",
			Wish{Mode: Static, Label: mustParse(t, "staff_u:staff_r:mls_guest_t:s3:c1,c2")},
			"s3:c1,c2",
			"staff_u:staff_r:mls_guest_t:s3:c1,c2", "staff_u:staff_r:cloister_virtiofsd_t:s3:c1,c2",
			"staff_u:object_r:cloister_image_t:s3:c1,c2", false,
		},
		{
			"static, relabel, image label",
			Wish{
				Mode: Static, Relabel: &yes, Label: mustParse(t, "u_u:u_r:g_t:s0:c1,c2"),
				Image: mustParse(t, "u_u:object_r:i_t:s0:c1,c2"),
			},
			"s0:c1,c2",
			"u_u:u_r:g_t:s0:c1,c2", "u_u:u_r:cloister_virtiofsd_t:s0:c1,c2", "u_u:object_r:i_t:s0:c1,c2", true,
		},
		{"none", Wish{Mode: None}, "-", "", "", "", false},
	}
	own := mustParse(t, "system_u:system_r:cloister_shim_t:s0")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := test.wish.Validate(test.wish.Mode != None); err != nil {
				t.Fatal(err)
			}
			reserved := level(t, drawn)
			if test.asked != "-" {
				asked := test.wish.Level()
				if (asked == nil) != (test.asked == "") || (asked != nil && asked.String() != test.asked) {
					t.Fatalf("Level = %v, want %q", asked, test.asked)
				}
				if asked != nil {
					reserved = *asked
				}
			}
			got, err := Choose(test.wish, own, Own(true), reserved)
			if err != nil {
				t.Fatal(err)
			}
			if got.QEMU.String() != test.qemu || got.Virtiofsd.String() != test.virtiofsd ||
				got.Image.String() != test.disk || got.Relabel != test.relabel {
				t.Errorf("Choose = %v, %v, %v, %v, want %v, %v, %v, %v", got.QEMU, got.Virtiofsd, got.Image,
					got.Relabel, test.qemu, test.virtiofsd, test.disk, test.relabel)
			}
			for _, l := range []Label{got.QEMU, got.Virtiofsd, got.Image, got.Rootfs, got.Run} {
				if l.Range != At(got.Level) {
					t.Errorf("%v is not at %v", l, got.Level)
				}
			}
			if got.Content.Range.High.Categories != (Set{}) {
				t.Errorf("content is %v, want no categories", got.Content)
			}
		})
	}
	if _, err := Choose(Wish{Engine: mustParse(t, "a:b:c:s0:c1,c2")}, own, Own(true), level(t, drawn)); err == nil {
		t.Error("Choose used another level than the one requested")
	}
	if _, err := Choose(Wish{}, Label{}, Own(true), level(t, drawn)); err == nil {
		t.Error("Choose gave labels without knowing its own")
	}
}

// TestChooseUser covers an engine that a login has started, as Podman is: its root file systems are
// mounted with the system's user, and who makes a file there must have the same.
func TestChooseUser(t *testing.T) {
	login := mustParse(t, "unconfined_u:system_r:cloister_shim_t:s0")
	static := Wish{Mode: Static, Label: mustParse(t, "staff_u:system_r:cloister_qemu_t:s0:c1,c2")}
	for _, test := range []struct {
		name  string
		wish  Wish
		types Types
		want  string
	}{
		{"machine", Wish{}, Own(true), "system_u"},
		{"plain container", Wish{}, Own(true).Plain(), "system_u"},
		{"another policy's types", Wish{}, Svirt(true), "unconfined_u"},
		{"static", static, Own(true), "staff_u"},
	} {
		got, err := Choose(test.wish, login, test.types, level(t, "s0:c1,c2"))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []Label{got.QEMU, got.Virtiofsd, got.Rootfs, got.Run, got.Content} {
			if l.User != test.want {
				t.Errorf("%s: Choose gives %v, want user %s", test.name, l, test.want)
			}
		}
	}
}

func TestTreat(t *testing.T) {
	chosen, err := Choose(Wish{}, mustParse(t, "system_u:system_r:cloister_shim_t:s0"), Own(false), level(t, "s0:c1,c2"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		chosen   Chosen
		resource Resource
		sharing  Sharing
		label    string
		want     string
		remember bool
		wantErr  bool
	}{
		{"disk", chosen, Disk, "", "", "system_u:object_r:cloister_image_t:s0:c1,c2", true, false},
		{"folder", chosen, Folder, Private, "", "system_u:object_r:cloister_rootfs_t:s0:c1,c2", true, false},
		{"shared disk", chosen, Disk, Shared, "", "system_u:object_r:cloister_image_t:s0", false, false},
		{"shared folder", chosen, Folder, Shared, "", "system_u:object_r:cloister_rootfs_t:s0", false, false},
		{"read-only", chosen, Disk, ReadOnly, "", "system_u:object_r:cloister_content_t:s0", false, false},
		{"kept", chosen, Disk, Keep, "", "", false, false},
		{"given", chosen, Disk, Given, "u:object_r:x_t:s0", "u:object_r:x_t:s0", true, false},
		{"given at another pair", chosen, Disk, Given, "u:object_r:x_t:s0:c1,c3", "", false, true},
		{"given without a label", chosen, Disk, Given, "", "", false, true},
		{"label without saying so", chosen, Disk, Private, "u:object_r:x_t:s0", "", false, true},
		{"kept with a label", chosen, Disk, Keep, "u:object_r:x_t:s0", "", false, true},
		{"unknown", chosen, Disk, "z", "", "", false, true},
		{"mode none", Chosen{}, Disk, "", "", "", false, false},
		{"mode none with a label", Chosen{}, Disk, Given, "u:object_r:x_t:s0", "", false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.chosen.Treat(test.resource, test.sharing, mustParse(t, test.label))
			if (err != nil) != test.wantErr {
				t.Fatalf("Treat = %v, want error %v", err, test.wantErr)
			}
			if got.Label.String() != test.want || got.Remember != test.remember {
				t.Errorf("Treat = %+v, want %q, remembered %v", got, test.want, test.remember)
			}
		})
	}
	for text, want := range map[string]bool{
		"u:object_r:cloister_rootfs_t:s0:c1,c2": true, "u:object_r:container_file_t:s0:c1,c2": true, "u:object_r:container_file_t:s0": true,
		"u:object_r:container_ro_file_t:s0": true, "u:object_r:container_file_t:s0:c1,c3": false,
		"u:object_r:container_file_t:s0:c0.c1023":       false,
		"u:object_r:cloister_container_file_t:s0:c1,c2": true, "u:object_r:cloister_container_file_t:s0:c1,c3": false,
		"u:object_r:container_var_lib_t:s0": false,
	} {
		if err := chosen.Fits(Folder, mustParse(t, text)); (err == nil) != want {
			t.Errorf("Fits(folder, %s) = %v, want %v", text, err, want)
		}
	}
	if err := chosen.Fits(Disk, mustParse(t, "u:object_r:container_file_t:s0:c1,c2")); err == nil {
		t.Error("a container's file was taken for a disk: QEMU has no right on it")
	}
	for _, test := range []struct {
		sharing Sharing
		have    string
		want    bool
	}{
		{ReadOnly, "u:object_r:cloister_content_t:s0", true},
		{ReadOnly, "u:object_r:cloister_image_t:s0:c1,c2", true},
		{ReadOnly, "u:object_r:nfs_t:s0", false},
		{Private, "system_u:object_r:cloister_image_t:s0:c1,c2", true},
		{Private, "system_u:object_r:cloister_content_t:s0", false},
		{Private, "system_u:object_r:cloister_image_t:s0", false},
	} {
		if got := chosen.Settled(Disk, test.sharing, chosen.Image, mustParse(t, test.have)); got != test.want {
			t.Errorf("Settled(%s, %s) = %v, want %v", test.sharing, test.have, got, test.want)
		}
	}
	for text, want := range map[string]bool{
		"u:object_r:cloister_image_t:s0:c1,c2": true, "u:object_r:cloister_content_t:s0": true,
		"u:object_r:cloister_image_t:s0:c1,c3": false, "u:object_r:shadow_t:s0": false,
	} {
		if err := chosen.Fits(Disk, mustParse(t, text)); (err == nil) != want {
			t.Errorf("Fits(%s) = %v, want %v", text, err, want)
		}
	}
}

// TestTypesOfAWish shows which types the policy's self-test is asked about: those that the sandbox
// gets, not only the set's.
func TestTypesOfAWish(t *testing.T) {
	for _, test := range []struct {
		name        string
		wish        Wish
		qemu, image string
	}{
		{"dynamic", Wish{}, "svirt_t", "svirt_image_t"},
		{"base label", Wish{Base: mustParse(t, "a:b:my_qemu_t:s0")}, "my_qemu_t", "svirt_image_t"},
		{"static", Wish{Mode: Static, Label: mustParse(t, "a:b:c_t:s0:c1,c2")}, "c_t", "svirt_image_t"},
		{
			"static image",
			Wish{Mode: Static, Label: mustParse(t, "a:b:c_t:s0:c1,c2"), Image: mustParse(t, "a:b:i_t:s0:c1,c2")},
			"c_t", "i_t",
		},
	} {
		if got := test.wish.Types(Svirt(true)); got.QEMU != test.qemu || got.Image != test.image || got.Virtiofsd != "svirt_t" {
			t.Errorf("%s: Types = %+v, want QEMU %s and images %s", test.name, got, test.qemu, test.image)
		}
	}
}
