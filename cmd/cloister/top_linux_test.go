// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/tests/testenv"
)

// procOf are the files of a process that has used so many hundredths of a second and bytes.
func procOf(pid, ticks, bytes int) map[string]string {
	stat := fmt.Sprintf("%d (x) S 1 1 1 0 -1 0 0 0 0 0 %d 0 0 0 20 0 1 0 100 4096 256 %s", pid, ticks, strings.Repeat("0 ", 28))
	io := fmt.Sprintf("rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: %d\nwrite_bytes: %d\ncancelled_write_bytes: 0\n", bytes, 2*bytes)
	return map[string]string{fmt.Sprintf("proc/%d/stat", pid): stat, fmt.Sprintf("proc/%d/io", pid): io}
}

func TestUsagesAreRates(t *testing.T) {
	self := alive(t)
	s := fakeSite(t, procOf(self.PID, 100, 1000))
	s.plant(t, "default", "one", self, func(r *statedir.Record) {
		r.Effects = nil
		r.Phases = []statedir.Phase{{Name: "plan"}, {Name: "agent"}}
	})
	list, before, err := s.usages(counters{})
	if err != nil || len(list) != 1 || list[0].CPU != 0 || list[0].Read != 0 {
		t.Fatalf("the first look = %+v, %v, want no rates", list, err)
	}
	before.at = before.at.Add(-10 * time.Second)
	before.each[self] = counted{cpu: 0.5, read: 500, written: 500}
	list, _, err = s.usages(before)
	if err != nil {
		t.Fatal(err)
	}
	u := list[0]
	if u.CPU < 4.5 || u.CPU > 5 || u.Read < 45 || u.Read > 50 || u.Written < 140 || u.Written > 150 {
		t.Errorf("half a second, 500 and 1500 bytes in ten seconds = %+v", u)
	}
	if u.Memory != 256*int64(os.Getpagesize()) || u.Phase != "agent" || u.Class != classVM {
		t.Errorf("usage = %+v, want 256 pages, phase agent, class vm", u)
	}
}

// TestUsageOfClassProcess counts what runs in the cgroups of plain containers, with the shim.
func TestUsageOfClassProcess(t *testing.T) {
	testenv.NeedRoot(t)
	leaf, err := cgroup.Leaf("", fmt.Sprintf("cloister-usage-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	group, err := cgroup.At(leaf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the test's own context has ended then
		if err := errors.Join(group.Kill(), group.Remove(context.Background())); err != nil {
			t.Error(err)
		}
	})
	if err := group.Create(cgroup.Limits{}); err != nil {
		t.Fatal(err)
	}
	member := exec.CommandContext(t.Context(), "sleep", "600")
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = member.Process.Kill(), member.Wait() })
	if err := group.Add(member.Process.Pid); err != nil {
		t.Fatal(err)
	}
	files := procOf(os.Getpid(), 100, 1000)
	maps.Copy(files, procOf(member.Process.Pid, 100, 1000))
	s := fakeSite(t, files)
	s.plant(t, "default", "plain", alive(t), func(r *statedir.Record) {
		r.Facts["class"] = classProcess
		r.Effects = []statedir.Effect{{Seq: 1, Kind: statedir.KindCgroup, Path: group.String(), Done: true}}
	})
	list, before, err := s.usages(counters{})
	if err != nil || len(list) != 1 {
		t.Fatalf("usages = %+v, %v, want one", list, err)
	}
	before.at = before.at.Add(-10 * time.Second)
	for p, c := range before.each {
		c.cpu -= 0.5
		before.each[p] = c
	}
	if list, _, err = s.usages(before); err != nil {
		t.Fatal(err)
	}
	u := list[0]
	if want := 2 * 256 * int64(os.Getpagesize()); u.Memory != want || u.CPU < 9 || u.CPU > 10 || u.Class != classProcess {
		t.Errorf("usage = %+v, want %d bytes and half a second in ten of each of shim and container", u, want)
	}
}

func TestSortOrders(t *testing.T) {
	list := []usage{
		{ID: "a", CPU: 1, Memory: 3, Read: 1, AgeSeconds: 9, Phase: "z", Label: "c1"},
		{ID: "b", CPU: 2, Memory: 1, Written: 5, AgeSeconds: 1, Phase: "y", Label: "c3"},
		{ID: "c", CPU: 3, Memory: 2, AgeSeconds: 5, Phase: "x", Label: "c2"},
	}
	keys := map[byte]bool{'q': true, ' ': true}
	for _, o := range orders() {
		if keys[o.key] {
			t.Errorf("two things have the key %c", o.key)
		}
		keys[o.key] = true
		sorted := slices.SortedFunc(slices.Values(list), o.less)
		var got string
		for _, u := range sorted {
			got += string(u.ID)
		}
		want := map[string]string{"cpu": "cba", "memory": "acb", "io": "bac", "age": "acb", "name": "abc", "phase": "cba", "label": "acb"}
		if got != want[o.name] {
			t.Errorf("by %s: %s, want %s", o.name, got, want[o.name])
		}
	}
}

// TestFrameFits: no line is wider than the terminal, and no more lines than it has.
func TestFrameFits(t *testing.T) {
	v := &topView{order: orders()[0]}
	for i := range 50 {
		v.list = append(v.list, usage{Namespace: "default", ID: statedir.ID(fmt.Sprintf("box-%d", i)), CPU: float64(i), State: "running"})
	}
	for _, size := range [][2]int{{80, 24}, {20, 5}, {1, 1}, {300, 100}} {
		frame := v.frame(size[0], size[1], time.Unix(0, 0))
		frame = strings.NewReplacer(home, "", restOfLine, "", restOfAll, "").Replace(frame)
		lines := strings.Split(frame, "\r\n")
		if len(lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, line := range lines {
			if len(line) > size[0] {
				t.Errorf("%v: a line of %d: %q", size, len(line), line)
			}
		}
	}
	if first := strings.Split(v.frame(200, 10, time.Unix(0, 0)), "\r\n")[4]; !strings.Contains(first, "box-49") {
		t.Errorf("the first sandbox by cpu is %q", first)
	}
}

// TestTopWithoutTerminal prints one table, or JSON.
func TestTopWithoutTerminal(t *testing.T) {
	s := fakeSite(t, nil)
	s.plant(t, "default", "one", alive(t), nil)
	out, _, err := s.command(t, "top", "--interval", "100ms")
	if err != nil || !strings.HasPrefix(out, "NAMESPACE") || !strings.Contains(out, "one") || strings.Contains(out, "\x1b") {
		t.Errorf("top = %q, %v, want a plain table", out, err)
	}
	out, _, err = s.command(t, "top", "--interval", "100ms", "--json")
	var list []usage
	if json.Unmarshal([]byte(out), &list) != nil || err != nil || len(list) != 1 || list[0].Memory == 0 {
		t.Errorf("top --json = %q, %v", out, err)
	}
}

// TestTopOnTerminal presses keys on a terminal, which is as before at the end.
func TestTopOnTerminal(t *testing.T) {
	s := fakeSite(t, procOf(os.Getpid(), 1, 1))
	s.plant(t, "default", "one", alive(t), nil)
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := master.Resize(console.WinSize{Height: 24, Width: 200}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	ended := make(chan error, 1)
	view := &topView{site: s, order: orders()[0], interval: time.Hour}
	go func() { ended <- view.live(t.Context(), slave, slave) }()
	shown := readUntil(t, master, "by cpu")
	if !strings.Contains(shown, otherScreen) {
		t.Errorf("the first screen is not kept: %q", shown)
	}
	for key, want := range map[string]string{"m": "by memory", "n": "by name"} {
		if _, err := master.Write([]byte(key)); err != nil {
			t.Fatal(err)
		}
		readUntil(t, master, want)
	}
	if _, err := master.Write([]byte("q")); err != nil {
		t.Fatal(err)
	}
	readUntil(t, master, firstScreen)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// readUntil reads the drawn output until it contains text.
func readUntil(t *testing.T, from io.Reader, text string) string {
	t.Helper()
	var all bytes.Buffer
	part := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := from.Read(part)
		if err != nil {
			t.Fatalf("before %q: %v, %q", text, err, all.String())
		}
		all.Write(part[:n])
	}
	return all.String()
}

func TestChangesOfStates(t *testing.T) {
	before := map[string]event{
		"d/gone": {ID: "gone", State: stateEnded, Reason: "panic"},
		"d/same": {ID: "same", State: stateRunning}, "d/up": {ID: "up", State: stateStarting},
	}
	now := map[string]event{
		"d/same": {ID: "same", State: stateRunning}, "d/up": {ID: "up", State: stateRunning}, "d/new": {ID: "new", State: stateStarting},
	}
	var got []string
	for _, e := range changes(before, now) {
		got = append(got, string(e.ID)+" "+e.State+e.Reason)
	}
	if want := []string{"gone removed", "new starting", "up running"}; !slices.Equal(got, want) {
		t.Errorf("changes = %q, want %q", got, want)
	}
}

// TestEventsFollow sees a sandbox come, lose its shim and go.
func TestEventsFollow(t *testing.T) {
	s := fakeSite(t, nil)
	read, write := io.Pipe()
	c := command{std: stdio{write, io.Discard}}
	form, yes := formatJSON, true
	c.format, c.asJSON = &form, &yes
	go func() {
		_ = write.CloseWithError((&feed{command: c, site: s, known: map[string]event{}}).follow(t.Context()))
	}()
	events := json.NewDecoder(read)
	next := func(want string) {
		t.Helper()
		id, _, _ := strings.Cut(want, " ")
		for got := ""; got != want; { // a record that is being written is seen as well
			var e event
			if err := events.Decode(&e); err != nil || string(e.ID) != id || e.Time.IsZero() {
				t.Fatalf("event = %+v, %v, want %s", e, err, want)
			}
			got = string(e.ID) + " " + e.State
		}
	}
	dir := s.plant(t, "default", "one", alive(t), nil)
	next("one running")
	s.plant(t, "default", "dead", sys.Process{PID: 1 << 22, Start: 1}, nil)
	next("dead dead")
	if err := os.RemoveAll(dir.String()); err != nil {
		t.Fatal(err)
	}
	next("one removed")
	out, _, err := s.command(t, "events")
	if err != nil || !strings.Contains(out, "default/dead") || strings.Contains(out, "one") {
		t.Errorf("events = %q, %v", out, err)
	}
}
