// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"cloister/sandbox/statedir"
	"cloister/shim/bootstrap"
)

// taken is a sandbox that a dead shim left, and what became of it. It is printed before and after,
// so an operator sees what was on the host.
type taken struct {
	Namespace statedir.ID `json:"namespace"`
	ID        statedir.ID `json:"id"`
	Class     string      `json:"class,omitempty"`
	Effects   []string    `json:"effects"`           // what it had done to the host, newest first
	Problem   string      `json:"problem,omitempty"` // why its record says nothing: the effects were found on the host
	Gone      bool        `json:"gone"`              // all of it has been taken back
}

// runGC is the verb gc. Each start of a shim cleans up too; gc is for hosts on which none starts.
func runGC(std stdio) *cobra.Command {
	c := newCommand(std, "gc [--dry-run] [--json]", "Takes back what dead shims have left: processes, cgroups, labels, levels, files.\n"+
		"Sandboxes whose shim lives are not touched.")
	c.withOutput("table")
	dry := c.Flags().Bool("dry-run", false, "only list it")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		// A wrong key in the config must stop no cleanup: only the folders count.
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		boxes, err := s.sandboxes()
		if err != nil {
			return err
		}
		left, err := s.leftovers(boxes)
		if err != nil {
			return err
		}
		// The record of each dead shim is undone in reverse; whoever comes next goes on where a
		// crash stops it.
		if !*dry {
			err = s.clean(ctx, std)
			for i := range left {
				// Told by the folder: it goes last, so it is there as long as anything is.
				_, gone := os.Lstat(boxDir(s, left[i]))
				left[i].Gone = errors.Is(gone, os.ErrNotExist)
			}
		}
		if done, printed := c.emit(left); done {
			return errors.Join(err, printed)
		}
		// An empty list with an error must not print "nothing was left behind".
		if len(left) == 0 && err != nil {
			return err // nobody knows whether something was left
		}
		printTaken(std, left, *dry)
		return err
	})
}

// clean takes back what dead shims have left, and says what no list of sandboxes shows.
func (s *site) clean(ctx context.Context, std stdio) error {
	// All of them, whatever namespace; one that cannot be undone does not stop the next.
	restored, err := s.config.Recovery().CleanupAll(ctx)
	for _, name := range restored {
		fmt.Fprintf(std.err, "gave files of %s their labels back\n", name)
	}
	// Sockets of shims lie outside of the state folder.
	stale, staleErr := bootstrap.RemoveStale()
	for _, path := range stale {
		fmt.Fprintf(std.err, "took back socket %s\n", path)
	}
	// Drafts of templates whose builder was killed, and notes of shims about shared memory.
	left, leftErr := s.config.Templates().Sweep()
	for _, name := range left {
		fmt.Fprintf(std.err, "took back %s of the templates\n", name)
	}
	return errors.Join(orRoot(err), staleErr, leftErr)
}

// leftovers lists sandboxes whose shim is gone, as they are before the cleanup.
func (s *site) leftovers(boxes []guestBox) ([]taken, error) {
	left := []taken{}
	for _, b := range boxes {
		if b.state() != stateDead {
			continue
		}
		effects, err := s.effects(b)
		if err != nil {
			return nil, orRoot(err)
		}
		t := taken{Namespace: b.dir.Namespace(), ID: b.dir.ID(), Class: b.knownClass(), Effects: []string{}}
		if statedir.IsUnreadable(b.broken) {
			// The effects come from the host itself then: marks in processes, cgroups, registry and
			// journal.
			t.Problem = b.broken.Error()
		}
		// Newest first is the order in which they are undone.
		for _, e := range slices.Backward(effects) {
			if e.Kind == statedir.KindProcess {
				e.Detail = "" // the mark by which it is found, which says nothing to people
			}
			t.Effects = append(t.Effects, e.String())
		}
		left = append(left, t)
	}
	return left, nil
}

// boxDir is empty for a name that is none; Lstat of it fails, which counts as gone.
func boxDir(s *site, t taken) string {
	dir, err := statedir.New(s.config.State, string(t.Namespace), string(t.ID))
	if err != nil {
		return ""
	}
	return dir.String()
}

// printTaken prints the table; "STILL THERE" is in capitals because somebody has to act.
func printTaken(std stdio, left []taken, dry bool) {
	if len(left) == 0 {
		fmt.Fprintln(std.out, "nothing was left behind")
		return
	}
	for _, t := range left {
		word := "STILL THERE"
		if dry {
			word = "would take back"
		} else if t.Gone {
			word = "took back"
		}
		class := ""
		if t.Class != "" {
			class = " (class " + t.Class + ")"
		}
		fmt.Fprintf(std.out, "%s %s/%s%s\n", word, t.Namespace, t.ID, class)
		if t.Problem != "" {
			fmt.Fprintf(std.out, "  found on the host, for its %s\n", t.Problem)
		}
		for _, e := range t.Effects {
			fmt.Fprintf(std.out, "  %s\n", e)
		}
	}
}
