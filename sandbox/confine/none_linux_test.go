// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/log"

	"cloister/labels/lsm"
)

// TestNoneWarnsOnce: each sandbox that gets the driver none because the host has no other says once
// what that is worth, and one whose configuration names it says nothing.
func TestNoneWarnsOnce(t *testing.T) {
	var out bytes.Buffer
	old := log.L.Logger.Out
	log.L.Logger.SetOutput(&out)
	t.Cleanup(func() { log.L.Logger.SetOutput(old) })
	f := newFake(t)
	off := f.withAppArmor()
	f.write("module/parameters/enabled", "N\n")
	const machine = "only the jail confines a guest"
	const plain = "only what its engine asks for (namespaces, seccomp) confines a plain container"
	for _, tt := range []struct {
		mac, what string
		plain     bool
		want      int
	}{{"none", "", false, 0}, {"auto", machine, false, 1}, {"", machine, false, 1}, {"none", "", true, 0}, {"auto", plain, true, 1}} {
		out.Reset()
		o := f.options("default/of-" + tt.mac)
		if tt.plain {
			o.Programs = lsm.Programs{}
		}
		o.Config.MAC, o.Chosen, o.AppArmor = tt.mac, None, off
		d, _ := reserve(t, o)
		unset, err := d.Exec(Machine)
		if err != nil {
			t.Fatal(err)
		}
		unset()
		if err := errors.Join(d.Sockets(func() error { return nil }), d.Release(t.Context())); err != nil {
			t.Fatal(err)
		}
		said := out.String()
		if got := strings.Count(said, "level=warning"); got != tt.want || strings.Count(said, "\n") != tt.want {
			t.Errorf("mac = %q: %d warnings, want %d:\n%s", tt.mac, got, tt.want, said)
		}
		for _, part := range []string{
			"neither SELinux nor AppArmor", tt.what, "enable one of them", `mac = \"none\" under [labels]`,
			"sandbox=" + o.Sandbox,
		} {
			if tt.want != 0 && !strings.Contains(said, part) {
				t.Errorf("mac = %q: the warning lacks %q: %s", tt.mac, part, said)
			}
		}
	}
}
