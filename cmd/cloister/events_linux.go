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

	"cloister/sandbox/statedir"
)

// event is a change of a sandbox's state.
type event struct {
	Time      time.Time   `json:"time"` // when it was seen
	Namespace statedir.ID `json:"namespace"`
	ID        statedir.ID `json:"id"`
	Class     string      `json:"class"`
	State     string      `json:"state"`            // as ps shows it, or removed
	Reason    string      `json:"reason,omitempty"` // why a machine ended that nobody asked to
}

// stateRemoved is that of a sandbox of which nothing is left.
const stateRemoved = "removed"

// lookEvery is how often states are compared: the end of a process changes no file.
const lookEvery = 500 * time.Millisecond

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
		feed := &feed{command: c, site: s, known: map[string]event{}}
		if !*follow {
			return feed.look()
		}
		return feed.follow(ctx)
	})
}

// feed tells of changes between what it knows and what is there.
type feed struct {
	command
	site  *site
	known map[string]event
}

func (f *feed) look() error {
	boxes, err := f.site.sandboxes()
	if err != nil {
		return err
	}
	now := map[string]event{}
	for _, b := range boxes {
		e := event{Namespace: b.dir.Namespace(), ID: b.dir.ID(), Class: b.class(), State: b.state()}
		if b.record.Ended != nil {
			e.Reason = b.record.Ended.Reason
		}
		now[b.name()] = e
	}
	for _, e := range changes(f.known, now) {
		e.Time = time.Now()
		if err := f.tell(e); err != nil {
			return err
		}
	}
	f.known = now
	return nil
}

// changes lists what differs between two looks: first what is gone, each by name.
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

func (f *feed) tell(e event) error {
	if *f.asJSON || *f.format == formatJSON {
		return json.NewEncoder(f.std.out).Encode(e)
	}
	if done, err := f.emit(e); done {
		return err
	}
	reason := ""
	if e.Reason != "" {
		reason = "  " + plainLines(e.Reason)
	}
	_, err := fmt.Fprintf(f.std.out, "%s  %-10s %-8s %s/%s%s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"),
		e.State, cmp.Or(e.Class, "-"), e.Namespace, e.ID, reason)
	return err
}

// follow looks whenever a folder of a sandbox comes or goes, and now and then.
func (f *feed) follow(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close() // only reads
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := f.watch(watcher); err != nil {
			return orRoot(err)
		}
		if err := f.look(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-watcher.Events:
		case err := <-watcher.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // what was lost is seen by the next look
				return err
			}
		}
	}
}

// watch adds the state folder and those of namespaces. One that is watched already stays so.
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
