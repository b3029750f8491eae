// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister/sandbox/statedir"
	"cloister/sys"
)

// inspected is everything that is known of a sandbox. The record is embedded, so its fields are at
// the top of the JSON, as they are on disk.
type inspected struct {
	Class string `json:"class,omitempty"`
	State string `json:"state"`
	// Problem says why the record says nothing. The effects are those found on the host then.
	Problem string `json:"problem,omitempty"`
	statedir.Record
	Facts map[string]any `json:"facts,omitempty"` // the record's, numbers as numbers
	Image imageAge       `json:"image"`
	PSS   memory         `json:"pssBytes"`
	Files files          `json:"files"`
}

// files are those of a sandbox that people look at. A name is empty where the file is not there
// yet, or no longer.
type files struct {
	Folder       string `json:"folder"`
	Console      string `json:"console,omitempty"`
	QEMULog      string `json:"qemuLog,omitempty"`
	VirtiofsdLog string `json:"virtiofsdLog,omitempty"`
	Share        string `json:"share,omitempty"`
}

// runInspect is the verb inspect. It reads the record, /proc and the image's folder, and changes
// nothing.
func runInspect(std stdio) *cobra.Command {
	c := newCommand(std, "inspect [--phases] ID",
		"Prints what is known of a sandbox as JSON: what it runs on, how long each phase of its start\n"+
			"took in milliseconds, what it did to the host, and where its files are.")
	phases := c.Flags().Bool("phases", false, "the phases alone, as a table")
	c.withOutput("json")
	c.ofSandboxes()
	return c.runs(1, 1, func(_ context.Context, rest []string) error {
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		b, err := s.find(rest[0])
		if err != nil {
			return err
		}
		i := inspected{
			Class: b.knownClass(), State: b.state(), Record: b.record, Facts: typed(b.record.Facts), Image: b.image(),
			PSS: s.memory(b), Files: filesOf(b.dir, b.record.Owner),
		}
		// Namespace and id come from the folder's name then.
		if b.broken != nil {
			i.Problem, i.Namespace, i.ID = b.broken.Error(), b.dir.Namespace(), b.dir.ID()
			if i.Effects, err = s.effects(b); err != nil {
				return orRoot(err)
			}
		}
		// One of --phases and --output table is enough.
		if *phases {
			return printPhases(std, slices.Concat(i.Phases, i.Recent))
		}
		if *c.format == "table" {
			return printPhases(std, slices.Concat(i.Phases, i.Recent))
		}
		_, err = c.emit(i)
		return err
	})
}

// typed gives facts that are decimal numbers as numbers. The record keeps text; scripts want
// numbers. A number that would print otherwise, as 007, stays text.
func typed(facts map[string]string) map[string]any {
	out := map[string]any{}
	for name, text := range facts {
		out[name] = text
		if n, err := strconv.Atoi(text); err == nil && strconv.Itoa(n) == text {
			out[name] = n
		}
	}
	return out
}

// filesOf names the files by the shim's mount namespace (/proc/SHIM/root): logs lie on a tmpfs that
// only the shim has mounted.
func filesOf(dir statedir.Dir, owner sys.Process) files {
	present := func(name string) string {
		if _, err := os.Lstat(name); err != nil {
			return ""
		}
		return name
	}
	return files{
		Folder: dir.String(), Console: present(dir.Log(owner, statedir.Console)), QEMULog: present(dir.Log(owner, statedir.QEMULog)),
		VirtiofsdLog: present(dir.Log(owner, statedir.VirtiofsdLog)), Share: present(dir.Share()),
	}
}

// printPhases draws when each phase began and how long it took. Times are in milliseconds since the
// start began. The width of the bars is relative to the longest.
func printPhases(std stdio, phases []statedir.Phase) error {
	if len(phases) == 0 {
		return fmt.Errorf("no phases are recorded: they are written when the first container starts: %w", fs.ErrNotExist)
	}
	const columns = 50
	// At least 1, or an empty list of durations would divide by zero.
	var end int64 = 1
	for _, p := range phases {
		end = max(end, p.OffsetMs+p.DurationMs)
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "PHASE\tAT\tTOOK\t")
	for _, p := range phases {
		from, width := int(p.OffsetMs*columns/end), max(1, int(p.DurationMs*columns/end))
		fmt.Fprintf(w, "%s\t%d ms\t%d ms\t  %s\n", p.Name, p.OffsetMs, p.DurationMs, strings.Repeat(" ", from)+strings.Repeat("#", width))
	}
	fmt.Fprintf(w, "all\t\t%d ms\t\n", (time.Duration(end) * time.Millisecond).Milliseconds())
	return w.Flush()
}
