// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/sandbox/background"
	"cloister/sandbox/template"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// TestRunHasTemplateBuilt: as by default, the first container that an engine starts by the command
// line has a template built, and the second one starts from it.
func TestRunHasTemplateBuilt(t *testing.T) {
	b := newBed(t)
	config := b.WriteCloisterConfig(t, "[template]\nmode = \"auto\"\n")
	bundle := b.bundle(t, []string{"sleep", "1000"}, nil)
	store := filepath.Join(b.Dir, "cloister", "templates")
	run := func() (from string) {
		b.create(t, "--bundle", bundle)
		b.oci(t, "start", "one") // the record says what it was started from after that
		var box struct {
			Facts struct {
				Start string `json:"start"`
			} `json:"facts"`
		}
		text := b.must(t, filepath.Join(testenv.Build(t), "cloister"), "--config", config, "inspect", "one")
		if err := json.Unmarshal([]byte(text), &box); err != nil {
			t.Fatalf("inspect: %v\n%s", err, text)
		}
		return box.Facts.Start
	}
	if from := run(); from != "cold" {
		t.Errorf("the first container was started from %q, want cold", from)
	}
	b.oci(t, "delete", "--force", "one")
	var list []template.Entry
	// A builder gets a tenth of the time that others get.
	if wrong := host.Await(3*host.Patience, func() (wrong string) {
		var err error
		if list, err = template.NewStore(store).List(); err != nil || len(list) != 1 {
			return fmt.Sprintf("templates: %+v, %v, want one", list, err)
		}
		for pid, line := range b.Processes(t) {
			if strings.HasPrefix(line, background.BuilderName+" ") {
				return fmt.Sprintf("the builder %d is still there", pid)
			}
		}
		return ""
	}); wrong != "" {
		t.Fatal(wrong)
	}
	if from := run(); from != "template "+list[0].ID {
		t.Errorf("the second container was started from %q, want template %s", from, list[0].ID)
	}
	b.oci(t, "delete", "--force", "one")
	if err := os.RemoveAll(store); err != nil {
		t.Error(err)
	}
}
