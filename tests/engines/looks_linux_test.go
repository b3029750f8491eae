// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/host"
)

// limits changes limits of the container one and reads them in its cgroup.
func (b *bed) limits(t *testing.T) {
	t.Helper()
	read := func() string {
		return b.oci(t, "exec", "one", "sh", "-c", "cd /sys/fs/cgroup; cat pids.max || cat pids/pids.max; cat memory.max || "+
			"cat memory/memory.limit_in_bytes")
	}
	b.oci(t, "update", "--pids-limit", "77", "--memory", "67108864", "one")
	if got, want := read(), "77\n67108864\n"; got != want {
		t.Errorf("limits after update by flags = %q, want %q", got, want)
	}
	if r := b.input(t, `{"pids": {"limit": 78}}`, b.program, "update", "--resources", "-", "one"); r.code != 0 {
		t.Errorf("update --resources = %+v", r)
	}
	if got, want := read(), "78\n67108864\n"; got != want {
		t.Errorf("limits after update by a file = %q, want %q", got, want)
	}
}

// lists looks for the container one in the list of all.
func (b *bed) lists(t *testing.T, bundle string, pid int) {
	t.Helper()
	if got := b.oci(t, "list", "--quiet"); got != "one\n" {
		t.Errorf("list --quiet = %q", got)
	}
	lines := strings.Split(b.oci(t, "list"), "\n")
	if got, want := strings.Fields(lines[0]), []string{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}; !slices.Equal(got, want) {
		t.Errorf("the table's columns = %q, want %q", got, want)
	}
	if got, want := strings.Fields(lines[1]), []string{"one", strconv.Itoa(pid), "running", bundle}; len(lines) != 3 || len(got) != 6 ||
		!slices.Equal(got[:4], want) || got[5] != "root" {
		t.Errorf("the table's lines = %q, want one, of %q", lines[1:], want)
	}
	var all []struct {
		ID, Status, Bundle string
		PID                int
	}
	if err := json.Unmarshal([]byte(b.oci(t, "list", "--format", "json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].ID != "one" || all[0].Status != "running" || all[0].Bundle != bundle || all[0].PID != pid {
		t.Errorf("list --format json = %+v, want one, running, of %s with pid %d", all, bundle, pid)
	}
}

// counts reads the container's own numbers, in runc's form. It waits for those of its processes:
// the shell may not have started its sleep, nor an exec that was killed be collected.
func (b *bed) counts(t *testing.T, class string) {
	t.Helper()
	if late := host.Await(host.Patience, func() string { return b.miscounted(t, class) }); late != "" {
		t.Error(late)
	}
}

// miscounted says what is wrong with the numbers.
func (b *bed) miscounted(t *testing.T, class string) string {
	t.Helper()
	var e struct {
		Type, ID string
		Data     struct {
			CPU    struct{ Usage struct{ Total uint64 } }
			Memory struct{ Usage struct{ Usage uint64 } }
			Pids   struct{ Current uint64 }
		}
	}
	text := b.oci(t, "events", "--stats", "one")
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("events --stats = %q: %v", text, err)
	}
	// The shell and its sleep. The threads of the proxy are in the cgroup of a plain container.
	pids := e.Data.Pids.Current == 2 || class == "process" && e.Data.Pids.Current > 2
	if e.Type != "stats" || e.ID != "one" || e.Data.CPU.Usage.Total == 0 || e.Data.Memory.Usage.Usage == 0 || !pids {
		return fmt.Sprintf("events --stats = %s, want CPU time, memory and 2 pids of the container one", text)
	}
	return ""
}
