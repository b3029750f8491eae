// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/labels"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample() Profile {
	return Profile{
		Name: "cloister-c12-c345", QEMU: "/usr/bin/qemu-system-x86_64", Virtiofsd: "/usr/lib/qemu/virtiofsd",
		Guest: []string{"/usr/share/cloister/guest/small/kernel", "/usr/share/cloister/guest/small/initrd"},
		Share: "/run/cloister/default/web/share", KVM: true,
	}
}

func TestProfileText(t *testing.T) {
	emulated := sample()
	emulated.KVM, emulated.Guest = false, emulated.Guest[:1]
	plain := Profile{Name: "cloister-c12-c345", Plain: true}
	for golden, p := range map[string]Profile{"kvm.profile": sample(), "emulated.profile": emulated, "plain.profile": plain} {
		got, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		golden = filepath.Join("testdata", golden)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

func TestTextRefusesSpecialCharacters(t *testing.T) {
	for _, path := range []string{
		"", "/", "relative", "/a b", "/a*", "/a?", "/a[b]", "/{a,b}", "/a\"", "/a,",
		"/a\nb", "/@{PROC}", "/a\\b", "/a#b", "/a/../b", "/a//b", "/a/", "/ä", "/a^",
	} {
		for name, change := range map[string]func(*Profile){
			"QEMU": func(p *Profile) { p.QEMU = path }, "Virtiofsd": func(p *Profile) { p.Virtiofsd = path },

			"Share": func(p *Profile) { p.Share = path }, "Guest": func(p *Profile) { p.Guest = []string{path} },
		} {
			p := sample()
			change(&p)
			if _, err := p.Text(); err == nil {
				t.Errorf("Text with %s %q = nil, want an error", name, path)
			}
		}
	}
	for _, name := range []string{
		"", "unconfined", "cloister-c1",
		"cloister-c1-c2 ", "cloister-c1-c2//qemu", "x cloister-c1-c2", "cloister-c1-c2\n",
	} {
		p := sample()
		p.Name = name
		if _, err := p.Text(); err == nil {
			t.Errorf("Text of profile name %q = nil, want an error", name)
		}
	}
}

func TestNameOf(t *testing.T) {
	for in, want := range map[string]string{
		"s0:c12,c345": "cloister-c12-c345", "s0:c0,c1023": "cloister-c0-c1023",
		"s0": "", "s0:c1": "", "s0:c1,c2,c3": "",
	} {
		level, err := labels.ParseLevel(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := NameOf(level); got != want || (err == nil) != (want != "") {
			t.Errorf("NameOf(%s) = %q, %v, want %q", in, got, err, want)
		}
	}
}
