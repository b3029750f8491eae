// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const record = `type=1400 audit(1795330289.511:13): avc:  denied  { read write } for  pid=159 comm="probe-qemu" ` +
	`path="/usr/lab/b/image" dev="vda" ` +
	`ino=2176 scontext=system_u:system_r:cloister_qemu_t:s0:c100,c200 tcontext=system_u:object_r:cloister_image_t:s0:c300,c400 ` +
	`tclass=file permissive=0`

func TestParseDenial(t *testing.T) {
	d, ok := parseDenial(record)
	if !ok {
		t.Fatalf("parseDenial(record): not a denial")
	}
	if diff := cmp.Diff([]string{"read", "write"}, d.Permissions); diff != "" {
		t.Error(diff)
	}
	if d.PID != 159 || d.Command != "probe-qemu" || d.Path != "/usr/lab/b/image" || d.Class != "file" || d.Permissive {
		t.Errorf("parseDenial(record) = %+v", d)
	}
	for _, other := range []string{
		"", "type=1300 audit(1:1): arch=c000003e syscall=257",
		"avc:  denied  { read", strings.Replace(record, "tclass=file", "", 1),
	} {
		if _, ok := parseDenial(other); ok {
			t.Errorf("parseDenial(%q): want no denial", other)
		}
	}
}

func TestBeside(t *testing.T) {
	const enables = `type=1400 audit(1796056914.824:98): avc:  denied  { setsched } for  pid=1568 comm="crun" ` +
		`scontext=unconfined_u:system_r:cloister_shim_t:s0 tcontext=unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023 ` +
		`tclass=process permissive=0`
	for text, want := range map[string]bool{
		enables: true, record: false,
		strings.Replace(enables, "cloister_shim_t", "cloister_qemu_t", 1): false,
		strings.Replace(enables, "setsched", "ptrace", 1):                 false,
	} {
		if d, ok := parseDenial(text); !ok || beside(d) != want {
			t.Errorf("beside(%s) = %t, %t, want %t", text, beside(d), ok, want)
		}
	}
}

func TestWantIn(t *testing.T) {
	list := denials([]string{record})
	w := want{"cloister_qemu_t", "cloister_image_t", "file", "write"}
	for _, test := range []struct {
		name           string
		want           want
		source, target string
		in             bool
	}{
		{"the one", w, levelA, levelB, true},
		{"any level of the target", w, levelA, "", true},
		{"another source level", w, levelB, levelB, false},
		{"another target level", w, levelA, levelC, false},
		{"another permission", want{w.source, w.target, w.class, "append"}, levelA, levelB, false},
		{"another class", want{w.source, w.target, "dir", "write"}, levelA, levelB, false},
	} {
		if got := test.want.in(list, test.source, test.target); got != test.in {
			t.Errorf("%s: in = %t, want %t", test.name, got, test.in)
		}
	}
}

func FuzzParseDenial(f *testing.F) {
	f.Add(record)
	f.Fuzz(func(t *testing.T, text string) {
		if d, ok := parseDenial(text); ok && (d.Class == "" || d.Source.IsZero() || d.Target.IsZero()) {
			t.Errorf("parseDenial(%q) = %+v: incomplete", text, d)
		}
	})
}

// TestAttempts keeps the matrix's table whole.
func TestAttempts(t *testing.T) {
	list := whole()
	if err := check(list); err != nil {
		t.Fatal(err)
	}
	count := map[tag]int{}
	for _, a := range list {
		count[a.tag]++
	}
	t.Logf("%d attempts: %v", len(list), count)
	if len(list) < 80 || count[mcs] < 40 || count[te] < 40 || count[cpb] < 10 {
		t.Errorf("%d attempts, %v: too few to show anything", len(list), count)
	}
}

func TestClosing(t *testing.T) {
	list := []result{{denied: true, controls: 2, held: 2, permissiveHeld: true}, {controls: 1}}
	want := "attacks[selinux/debian]: 2 tried, 1 denied, 1 succeeded; controls: 2 of 3; permissive: 1 succeeded"
	if got := closing(debianPolicy, list); got != want {
		t.Errorf("closing(list) = %q, want %q", got, want)
	}
}
