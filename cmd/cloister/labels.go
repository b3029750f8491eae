// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// runLabels is the verb labels. It shows all engines' processes, since pairs must be unique on the
// host and not only among sandboxes.
func runLabels(std stdio) *cobra.Command {
	c := newCommand(std, "labels [--all] [--json]",
		"Shows who holds which label on this host, whatever engine started it: levels, processes, files.\n"+
			"Ends with status 3 when two tenants' levels clash.")
	c.withOutput("table")
	all := c.Flags().Bool("all", false,
		"also processes that are no tenant's: daemons and users, whose labels are ranges or have no categories")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		p, err := s.look(ctx)
		if err != nil {
			return err
		}
		// Ranges are daemons' and users': they are above all pairs by design and no tenant's.
		if !*all {
			p.Processes = slices.DeleteFunc(p.Processes, func(l labelled) bool {
				level, single := l.Label.Range.Single()
				return !single || level.Categories.Len() == 0
			})
		}
		done, err := c.emit(p)
		if !done && err == nil {
			err = printPicture(std, p)
		}
		// Status 3 also for monitoring: two tenants at one level can reach each other's files.
		if err == nil && len(p.Clashes) > 0 {
			return notWell("labels: %d clashes: restart one of the two sandboxes: cloister gives it a free pair", len(p.Clashes))
		}
		return err
	})
}

// printPicture prints the tables; problems go to standard error, clashes to the end, where they are
// seen.
func printPicture(std stdio, p picture) error {
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "SELinux is %s\n", p.Mode)
	if p.Hidden > 0 {
		fmt.Fprintf(w, "%d processes do not show their label: run it as root\n", p.Hidden)
	}
	if len(p.Levels) > 0 {
		fmt.Fprintln(w, "\nLEVEL\tKIND\tHELD BY\tPROCESSES\tFILES")
		for _, h := range p.Levels {
			// A level that the registry does not have was given by another engine.
			kind := cmp.Or(string(h.Kind), "not ours")
			if h.Share != "" {
				kind += " " + h.Share
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", h.Level, kind,
				cmp.Or(strings.Join(h.who(), ", "), "files alone"), len(h.Processes), len(h.Files))
		}
	}
	if len(p.Processes) > 0 {
		fmt.Fprintln(w, "\nPID\tCOMMAND\tENGINE\tCLASS\tTENANT\tLABEL")
		for _, l := range p.Processes {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", l.PID, plain(l.Command), l.Engine, cmp.Or(l.Class, "-"), l.Tenant, l.Label)
		}
	}
	if len(p.Files) > 0 {
		fmt.Fprintln(w, "\nFILE\tSANDBOX\tLABEL\tBEFORE")
		for _, u := range p.Files {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", plain(u.Path), u.Sandbox, u.Label, cmp.Or(u.Before, "none"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	// After the tables, since they explain why something may be missing there.
	for _, problem := range p.Problems {
		fmt.Fprintf(std.err, "problem: %s\n", problem)
	}
	for _, clash := range p.Clashes {
		fmt.Fprintf(std.out, "\nCLASH %s", clash)
	}
	_, err := fmt.Fprintf(std.out, "\n%d levels, %d clashes\n", len(p.Levels), len(p.Clashes))
	return err
}

// plain shows text that a tenant chose: quoted where it would mean something to a terminal. Both
// sets of control characters, C0 and C1: a terminal obeys either.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}
