// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister/sandbox/statedir"
)

// psRow is one sandbox as ps shows it. The names of the JSON are a contract; a field that is not
// known is left out.
type psRow struct {
	Namespace  statedir.ID `json:"namespace"`
	ID         statedir.ID `json:"id"`
	Class      string      `json:"class,omitempty"`
	State      string      `json:"state"`
	Pid        int         `json:"pid,omitempty"` // QEMU's, or of the first plain container
	Created    time.Time   `json:"created"`
	AgeSeconds int64       `json:"ageSeconds"`
	Machine    string      `json:"machine,omitempty"`
	Accel      string      `json:"accel,omitempty"`
	MAC        string      `json:"mac,omitempty"`
	Label      string      `json:"label,omitempty"`
	Profile    string      `json:"profile,omitempty"`  // AppArmor's
	Jail       string      `json:"jail,omitempty"`     // the parts that are on
	GuestMiB   int         `json:"guestMiB,omitempty"` // the machine's size
	Start      string      `json:"start,omitempty"`    // what it was started from: cold, or template and its id
	PSS        memory      `json:"pssBytes"`
	Image      imageAge    `json:"image"`
	Problem    string      `json:"problem,omitempty"`
}

// runPs is the verb ps. What dead shims have left is counted and not listed: it does not run.
func runPs(std stdio) *cobra.Command {
	c := newCommand(std, "ps [--all] [--quiet] [--filter KEY=VALUE]...", "Lists the sandboxes that run on this host.")
	c.withOutput("table")
	all := c.Flags().BoolP("all", "a", false, "also what dead shims have left")
	quiet := c.Flags().BoolP("quiet", "q", false, "print NAMESPACE/ID alone")
	filters := c.Flags().StringArrayP("filter", "f", nil,
		"only sandboxes with `KEY=VALUE`: namespace, id (its start), class, state, machine or label; all of several must fit")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		// Before the records are read: a wrong filter is wrong usage also on an empty host.
		for _, f := range *filters {
			if _, err := (psRow{}).has(f); err != nil {
				return wrongUsage(c.Command, err)
			}
		}
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		rows, hidden, err := s.rows(*all, *filters)
		if err != nil {
			return err
		}
		// With another form than the table nothing is written to standard error, so that both
		// streams can be parsed.
		if done, err := c.emit(rows); done {
			return err
		}
		if *quiet {
			for _, r := range rows {
				fmt.Fprintf(std.out, "%s/%s\n", r.Namespace, r.ID)
			}
			return nil
		}
		tellRows(std.err, rows, hidden)
		return printPs(std.out, rows)
	})
}

// rows are the sandboxes that fit; those whose shim is dead are left out and counted unless all are
// wanted. The list is never nil, so that JSON has [] and not null.
func (s *site) rows(all bool, filters []string) (rows []psRow, hidden int, err error) {
	boxes, err := s.sandboxes()
	if err != nil {
		return nil, 0, err
	}
	rows = []psRow{}
	for _, b := range boxes {
		state := b.state()
		// The next start or gc takes them away.
		if state == stateDead && !all {
			hidden++
			continue
		}
		if row := s.row(b, state, time.Now()); row.fits(filters) {
			rows = append(rows, row)
		}
	}
	return rows, hidden, nil
}

// tellRows says what the table has no column for. A reason may have several lines; it goes to
// standard error, so that the table stays one for scripts.
func tellRows(w io.Writer, rows []psRow, hidden int) {
	if hidden > 0 {
		fmt.Fprintf(w, "%d more whose shim is dead: `cloister ps --all` shows them, `cloister gc` takes them away\n", hidden)
	}
	for _, r := range rows {
		if r.State == stateEnded && r.Problem != "" {
			fmt.Fprintf(w, "%s/%s ended: %s\n", r.Namespace, r.ID, plainLines(r.Problem))
		}
	}
}

// has reports whether the sandbox is one of KEY=VALUE. An unknown key is an error, so that a
// misspelt filter does not show everything.
func (r psRow) has(filter string) (bool, error) {
	key, value, _ := strings.Cut(filter, "=")
	switch key {
	case "namespace":
		return string(r.Namespace) == value, nil
	case "id":
		return strings.HasPrefix(string(r.ID), value), nil
	case "class":
		return r.Class == value, nil
	case "state":
		return r.State == value, nil
	case "machine":
		return r.Machine == value, nil
	case "label":
		return r.Label == value, nil
	}
	return false, fmt.Errorf("--filter %q: want namespace=, id=, class=, state=, machine= or label=", filter)
}

// fits reports whether all filters, which are known to be right, let the sandbox through. They were
// checked when the verb began.
func (r psRow) fits(filters []string) bool {
	for _, f := range filters {
		if ok, _ := r.has(f); !ok {
			return false
		}
	}
	return true
}

// row gathers what the record and /proc say. Facts are text that the shim has written at the start.
func (s *site) row(b guestBox, state string, now time.Time) psRow {
	r := b.record
	row := psRow{
		Namespace: b.dir.Namespace(), ID: b.dir.ID(), Class: b.knownClass(), State: state, Pid: b.main().PID, Created: r.Created,
		Machine: r.Facts["machine"], Accel: r.Facts["accel"], MAC: r.Facts["mac"], Label: r.Facts["label"],
		Profile: r.Facts["profile"], Jail: r.Facts["jail"], GuestMiB: number(r.Facts["memory_mib"]),
		Start: r.Facts["start"], PSS: s.memory(b), Image: b.image(),
	}
	if !r.Created.IsZero() {
		// Negative when the clock was set back; age prints zero then.
		row.AgeSeconds = int64(now.Sub(r.Created).Seconds())
	}
	switch {
	case b.broken != nil:
		row.Problem = b.broken.Error()
	case r.Ended != nil:
		row.Problem = r.Ended.Reason
	}
	return row
}

// printPs prints the table.
func printPs(out io.Writer, rows []psRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tID\tCLASS\tSTATE\tPID\tAGE\tMACHINE\tSTART\tLABEL\tMEMORY\tKERNEL\tIMAGE")
	for _, r := range rows {
		id := string(r.ID)
		if len(id) > 20 { // engines give 64 hexadecimal digits; a start of it is enough for every verb
			id = id[:12]
		}
		pid := "-"
		if r.Pid != 0 {
			pid = fmt.Sprint(r.Pid)
		}
		machine := "-"
		if r.Machine != "" {
			machine = r.Machine + "/" + r.Accel
		}
		image := "current"
		switch {
		// A plain container has no guest image.
		case r.Class == classProcess:
			image = "-"
		// The version is the same and the image is not: it was rebuilt, with a new agent or
		// library.
		case r.Image.Old && r.Image.Now == r.Image.Kernel:
			image = "OLD: rebuilt since"
		case r.Image.Old:
			image = "OLD: now " + r.Image.Now
		case r.Image.Problem != "":
			image = "?"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Namespace, id, cmp.Or(r.Class, "-"), r.State, pid,
			age(time.Duration(r.AgeSeconds)*time.Second), machine, r.startColumn(),
			cmp.Or(r.Label, r.Profile, "none"), memoryColumn(r), cmp.Or(r.Image.Kernel, "-"), image)
	}
	return w.Flush()
}

// startColumn is what a sandbox was started from, without the template's id. The word comes from a
// record, which root alone writes; it is shown as plain all the same.
func (r psRow) startColumn() string {
	word, _, _ := strings.Cut(r.Start, " ")
	return cmp.Or(plain(word), "-")
}

// plainLines shows lines that a guest may have written, as plain does, below each other. The reason
// of a machine's end has the tail of its console.
func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n  ")
}

// memoryColumn is what the sandbox holds of the host's memory, and what its machine may take. PSS,
// so that pages which several guests share are counted once over all rows.
func memoryColumn(r psRow) string {
	s := fmt.Sprintf("%.1f MiB", mib(r.PSS.sum()))
	if r.GuestMiB != 0 {
		s += fmt.Sprintf(" of %d", r.GuestMiB)
	}
	return s
}

// number is a fact's value, 0 for one that is none. A record of another version may lack the fact.
func number(fact string) int {
	n, err := strconv.Atoi(fact)
	if err != nil {
		return 0
	}
	return n
}
