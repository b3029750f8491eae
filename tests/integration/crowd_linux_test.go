// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cloister/tests/host"
)

// TestSoakCrowd has more sandboxes at once than root has inotify instances (128 by default): 130
// with CLOISTER_SOAK, else a tenth. Each has a uid of its own, and gets what the host changes in a
// file that was copied, also where no instance was left to watch it.
func TestSoakCrowd(t *testing.T) {
	count := 13
	if os.Getenv("CLOISTER_SOAK") != "" {
		count = 130
	}
	b := onDisks(t)
	hosts := filepath.Join(b.folder(t, "copied", map[string]string{"hosts": "before\n"}), "hosts")
	// each does something for all sandboxes, four at once. The channel holds all: a failed test
	// ends its goroutine.
	each := func(do func(id string)) {
		ids := make(chan string, count)
		for i := range count {
			ids <- fmt.Sprintf("c%03d", i)
		}
		close(ids)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for id := range ids {
					do(id)
				}
			})
		}
		all.Wait()
	}
	each(func(id string) {
		options := []string{"--detach", "--mount", "type=bind,src=" + hosts + ",dst=/etc/hosts,options=rbind"}
		r := b.Run(t, b.Args(id, options, "sleep", "10000")...)
		if r.Code != 0 {
			t.Errorf("start %s: %+v", id, r)
		}
	})
	defer each(func(id string) { b.Remove(t, id) })
	var list []struct {
		ID, State, Start string
		Pid              int
	}
	if text := b.cloister(t, "ps", "--output", "json"); json.Unmarshal([]byte(text), &list) != nil || len(list) != count {
		t.Fatalf("%d sandboxes, want %d:\n%s", len(list), count, text)
	}
	if f := b.facts(t, list[count-1].ID); f.Memory != "copy-on-write of the template's" || f.Files != "none" {
		t.Errorf("inspect: %+v, want the template's memory and no file server", f)
	}
	owners := map[string]string{}
	for _, s := range list {
		status, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/status", s.Pid)))
		if err != nil {
			t.Fatal(err)
		}
		_, uids, _ := strings.Cut(string(status), "\nUid:")
		uid := strings.Fields(uids)[0]
		if other := owners[uid]; other != "" || uid == "0" || s.State != "running" || !strings.HasPrefix(s.Start, "template ") {
			t.Errorf("%+v has the uid %s, which %q has", s, uid, other)
		}
		owners[uid] = s.ID
	}
	if err := os.WriteFile(hosts, []byte("after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	each(func(id string) {
		if late := host.Await(host.Patience, func() string {
			if r := b.Exec(t, id, "e", "cat", "/etc/hosts"); r.Stdout != "after\n" {
				return fmt.Sprintf("%s has %+v in its copy, want after", id, r)
			}
			return ""
		}); late != "" {
			t.Error(late)
		}
	})
	log, err := os.ReadFile(b.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	instances, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(instances)))
	polled := strings.Count(string(log), "are looked at every few seconds")
	t.Logf("%d sandboxes, %d of them without an inotify instance; the host has %d", count, polled, most)
	if err != nil || count > most && polled == 0 {
		t.Errorf("%v: no sandbox says that it has no inotify instance", err)
	}
}
