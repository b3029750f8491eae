// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cloister/sandbox/statedir"
)

// event is a change of a sandbox's state. It is a line of JSON with --output json; scripts follow
// it.
type event struct {
	Time      time.Time   `json:"time"` // when it was seen
	Namespace statedir.ID `json:"namespace"`
	ID        statedir.ID `json:"id"`
	Class     string      `json:"class"`
	State     string      `json:"state"`            // as ps shows it, or removed
	Reason    string      `json:"reason,omitempty"` // why a machine ended that nobody asked to
}

// stateRemoved is that of a sandbox of which nothing is left. It is not a state of ps, which shows
// nothing then.
const stateRemoved = "removed"

// lookEvery is how often states are compared: the end of a process changes no file. Half a second
// is shorter than a start, so no state is missed that people would see. A look is a read of small
// files.
const lookEvery = 500 * time.Millisecond

// runEvents is the verb events. It needs no daemon: it compares records, as ps reads them.
func runEvents(std stdio) *cobra.Command {
	c := newCommand(std, "events [--follow]",
		"Prints the state of each sandbox, a line for each; with --follow each change from then on: starting, running,\n"+
			"ended, dead (its shim is gone), removed. With --output json a line is an object.")
	c.withOutput(formatTable)
	follow := c.Flags().BoolP("follow", "f", false, "go on until stopped")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		// Nothing is known yet, so the first look prints all.
		feed := &feed{command: c, site: s, known: map[string]event{}}
		if !*follow {
			return feed.look()
		}
		return feed.follow(ctx)
	})
}

// feed tells of changes between what it knows and what is there. One goroutine uses it.
type feed struct {
	command
	site  *site
	known map[string]event
}

// look prints what has changed since the last one. A change that came and went in between is not
// seen.
func (f *feed) look() error {
	boxes, err := f.site.sandboxes()
	if err != nil {
		return err
	}
	now := map[string]event{}
	for _, b := range boxes {
		e := event{Namespace: b.dir.Namespace(), ID: b.dir.ID(), Class: b.class(), State: b.state()}
		// Kept also for the event removed, which has no record any more.
		if b.record.Ended != nil {
			e.Reason = b.record.Ended.Reason
		}
		now[b.name()] = e
	}
	// The time is that of the look, since the record does not have the time of each state.
	for _, e := range changes(f.known, now) {
		e.Time = time.Now()
		if err := f.tell(e); err != nil {
			return err
		}
	}
	f.known = now
	return nil
}

// changes lists what differs between two looks: first what is gone, each by name. The order is by
// name, so that two runs print alike.
func changes(before, now map[string]event) []event {
	var list []event
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, there := now[name]; !there {
			gone := before[name]
			gone.State, gone.Reason = stateRemoved, ""
			list = append(list, gone)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if was, known := before[name]; !known || was.State != now[name].State {
			list = append(list, now[name])
		}
	}
	return list
}

// tell prints one event in the form that was asked for. JSON is one line for each, so that a reader
// need not wait for the end.
func (f *feed) tell(e event) error {
	if *f.asJSON || *f.format == formatJSON {
		return json.NewEncoder(f.std.out).Encode(e)
	}
	if done, err := f.emit(e); done {
		return err
	}
	reason := ""
	if e.Reason != "" {
		// The reason may have words that the guest wrote.
		reason = "  " + plainLines(e.Reason)
	}
	_, err := fmt.Fprintf(f.std.out, "%s  %-10s %-8s %s/%s%s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"),
		e.State, cmp.Or(e.Class, "-"), e.Namespace, e.ID, reason)
	return err
}

// follow looks whenever a folder of a sandbox comes or goes, and now and then. fsnotify shortens
// the wait for folders that come and go; ticks find the rest, which no file tells of.
func (f *feed) follow(ctx context.Context) error {
	// A host with many sandboxes may have no inotify instance or watch left: ticks find all, later.
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close() // only reads
		events, failures = watcher.Events, watcher.Errors
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		// Again in each round: a namespace's folder may be new.
		if events != nil {
			if err := f.watch(watcher); err != nil && !errors.Is(err, unix.ENOSPC) {
				return orRoot(err)
			}
		}
		if err := f.look(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-events:
		case err := <-failures:
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // what was lost is seen by the next look
				return err
			}
		}
	}
}

// watch adds the state folder and those of namespaces. One that is watched already stays so.
// Records themselves are not watched: a shim replaces them often, and ticks are quick enough.
func (f *feed) watch(watcher *fsnotify.Watcher) error {
	state := f.site.config.State
	err := watcher.Add(state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no shim has run here yet: the ticks look for it
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(state)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := watcher.Add(filepath.Join(state, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
