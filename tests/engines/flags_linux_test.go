// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/tests/testenv"
)

// TestVolumeFlagsBesideRunc: the flags of a volume that is bound with what is mounted below it hold
// for the volume alone in class process, as under runc. In a guest the volume is one file system
// with all below it, so they hold for that too. The recursive forms are refused by name.
func TestVolumeFlagsBesideRunc(t *testing.T) {
	runc := testenv.NeedTool(t, "runc")
	// A program of noexec says what of each flag the kernel goes by.
	const script = "for f in /v /v/below; do $f/busybox true 2>/dev/null && echo runs || echo refused; done"
	const alone, whole = "refused\nruns\n", "refused\nrefused\n"
	for class, want := range map[string]string{"vm": whole, "process": alone} {
		t.Run(class, func(t *testing.T) {
			b := newBed(t)
			b.WriteClass(t, class)
			source := filepath.Join(b.Dir, "volume")
			b.must(t, "sh", "-c", `mkdir -p "$1/below" && mount --bind "$1" "$1" && mount -t tmpfs tmpfs "$1/below" &&
cp "$2" "$1/busybox" && cp "$2" "$1/below/busybox"`, "sh", source, testenv.NeedBusybox(t))
			t.Cleanup(func() { b.must(t, "umount", "-R", source) })
			with := func(id string, options ...string) string {
				return b.bundleOf(t, id, []string{"sh", "-c", script}, func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: source, Options: options})
				})
			}
			bundle := with("one", "rbind", "nosuid", "nodev", "noexec")
			if got := b.must(t, runc, "run", "--bundle", bundle, "peer"); got != alone {
				t.Errorf("with runc, /v and /v/below = %q, want %q", got, alone)
			}
			if got := b.oci(t, "run", "--bundle", bundle, "one"); got != want {
				t.Errorf("/v and /v/below = %q, want %q", got, want)
			}
			if r := b.run(t, b.program, "create", "--bundle", with("two", "rbind", "rnodev"), "two"); r.code != 1 ||
				!strings.Contains(r.err, `"rnodev"`) || !strings.Contains(r.err, "remove it") {
				t.Errorf("create with rnodev = %+v, want an error that names it and the remedy", r)
			}
		})
	}
}
