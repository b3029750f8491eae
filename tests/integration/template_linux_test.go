// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// templates is a bed whose sandboxes start from templates.
type templates struct {
	*bed
	store string
}

func newTemplates(t *testing.T) *templates {
	t.Helper()
	if os.Getenv("CLOISTER_GUEST") == "distro" {
		t.Skip("templates are made of the small kernel's machine alone")
	}
	b := newBed(t, host.Options{Cloister: "[template]\nmode = \"auto\"\n[debug]\nshell = \"/usr/bin/busybox\"\n"})
	return &templates{b, filepath.Join(b.Place.Dir, "cloister", "templates")}
}

// cloister runs the host tool in the bed's place.
func (b *templates) cloister(t *testing.T, args ...string) string {
	t.Helper()
	program := filepath.Join(testenv.Build(t), "cloister")
	return b.Place.Run(t, program, append([]string{"--config", filepath.Join(b.Place.Dir, "cloister.toml")}, args...)...)
}

// started says what a running sandbox was started from.
func (b *templates) started(t *testing.T, id string) string {
	t.Helper()
	var box struct {
		Facts map[string]string `json:"facts"`
	}
	text := b.cloister(t, "inspect", "default/"+id)
	if err := json.Unmarshal([]byte(text), &box); err != nil {
		t.Fatalf("inspect: %v\n%s", err, text)
	}
	return box.Facts["start"]
}

// TestClonesDiffer starts sandboxes from one template at once: what must be each guest's own is.
func TestClonesDiffer(t *testing.T) {
	b := newTemplates(t)
	b.cloister(t, "template", "build")
	const clones = 2
	var wg sync.WaitGroup
	for i := range clones {
		wg.Go(func() { b.start(t, "c"+strconv.Itoa(i), nil) })
	}
	wg.Wait()
	own := map[string]string{
		"boot id":      "cat /proc/sys/kernel/random/boot_id",
		"UUID":         "cat /proc/sys/kernel/random/uuid",
		"random bytes": "head -c 16 /dev/urandom | od -An -tx1",
	}
	for _, what := range slices.Sorted(maps.Keys(own)) {
		seen := map[string]string{}
		for i := range clones {
			id := "c" + strconv.Itoa(i)
			r := b.exec(t, id, "e", "sh", "-c", own[what])
			got := strings.TrimSpace(r.Stdout)
			if got == "" || r.Code != 0 {
				t.Fatalf("%s of %s = %+v", what, id, r)
			}
			if other := seen[got]; other != "" {
				t.Errorf("%s of %s and %s is the same: %s", what, id, other, got)
			}
			seen[got] = id
		}
	}
	for i := range clones {
		if from := b.started(t, "c"+strconv.Itoa(i)); !strings.HasPrefix(from, "template ") {
			t.Errorf("c%d was started from %q, want a template", i, from)
		}
	}
}
