// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister/cmd/internal/crashtest"
	"cloister/sandbox"
	"cloister/sandbox/template"
)

// runTemplate has the verbs of saved guests.
func runTemplate(std stdio) *cobra.Command {
	return group(std, "template", []verb{
		{"build", "boot a guest and save it", templateBuild},
		{"list", "list the templates of this host", templateList},
		{"verify", "read templates whole and compare their digests", templateVerify},
		{"gc", "remove templates that are damaged, set aside or too many", templateGC},
		{"disable", "have all sandboxes start cold", templateDisable},
		{"enable", "end disable", templateEnable},
	})
}

// templates are those of the configured host. The folders are enough: a template can be listed and
// removed under a config that a start refuses.
func templates(std stdio, c *cobra.Command) (template.Store, error) {
	s, err := openFolders(std, configOf(c))
	if err != nil {
		return template.Store{}, err
	}
	return s.config.Templates(), nil
}

// templateBuild is the verb build. It boots a real guest with identity and jail, and saves it
// before anything of a tenant is in it.
func templateBuild(std stdio) *cobra.Command {
	c := newCommand(std, "build [--memory MIB] [--cpus N] [--missing]",
		"Boots a guest without network, share and workload, saves it, and keeps it for sandboxes\n"+
			"of that size, which start from it where [template] mode is auto or manual.")
	c.withOutput("table")
	memory := c.Flags().Int("memory", 0, "memory `limit` of the sandboxes' containers in MiB (default: as for a workload that says none)")
	cpus := c.Flags().Int("cpus", 0, "`number` of the sandboxes' CPUs (default: as for a workload that says none)")
	missing := c.Flags().Bool("missing", false, "build none if there is one, or if one has failed twice")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		if *memory < 0 || *cpus < 0 {
			return wrongUsage(c.Command, errors.New("--memory and --cpus: want numbers above zero"))
		}
		// A killed builder's mounts go with its namespace.
		req := sandbox.TemplateRequest{Size: template.Size{LimitMiB: *memory, CPUs: *cpus}, Missing: *missing}
		return withOwnMounts(ctx, std, func() error { return c.buildTemplate(ctx, req) })
	})
}

// buildTemplate runs in that namespace.
func (c *command) buildTemplate(ctx context.Context, req sandbox.TemplateRequest) error {
	s, err := openSite(configOf(c.Command))
	if err != nil {
		return err
	}
	// Tests kill the builder at each step by it.
	s.config.Trace = crashtest.Trace("template")
	m, err := sandbox.BuildTemplate(ctx, s.config, req)
	if errors.Is(err, template.ErrThere) || errors.Is(err, template.ErrSetAside) {
		fmt.Fprintf(c.std.err, "nothing is built: %v\n", err)
		return nil
	}
	if err != nil {
		return orRoot(err)
	}
	if done, err := c.emit(m); done {
		return err
	}
	_, err = fmt.Fprintf(c.std.out, "%s: %d CPUs, %d MiB, of which %.1f MiB are kept\n", m.ID, m.Key.CPUs,
		m.Key.MemoryMiB, mib(m.Memory.Bytes))
	return err
}

// templateList is the verb list.
func templateList(std stdio) *cobra.Command {
	c := newCommand(std, "list", "Lists the templates of this host, the one that was used last first.")
	c.withOutput("table")
	return c.runs(0, 0, func(context.Context, []string) error {
		store, err := templates(std, c.Command)
		if err != nil {
			return err
		}
		list, err := store.List()
		if err != nil {
			return orRoot(err)
		}
		if store.Disabled() {
			fmt.Fprintln(std.err, "templates are disabled: `cloister template enable`")
		}
		// JSON has [] and not null.
		if list == nil {
			list = []template.Entry{}
		}
		if done, err := c.emit(list); done {
			return err
		}
		return printTemplates(std.out, list)
	})
}

// printTemplates prints the table. A template whose manifest cannot be read has a row too, with the
// reason.
func printTemplates(out io.Writer, list []template.Entry) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tMACHINE\tCPUS\tMEMORY\tKEPT\tBUILT\tUSED\tSTATE")
	for _, e := range list {
		if e.Manifest == nil {
			// Its folder has no readable manifest; gc removes it.
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t%s\t%s\n", e.ID, age(time.Since(e.Used)), plainLines(e.Problem))
			continue
		}
		state := "good"
		// Two failures that the cold start survived set it aside: then the template is at fault.
		if e.SetAside {
			state = fmt.Sprintf("set aside: failed %d times", e.Failures)
		}
		k := e.Manifest.Key
		fmt.Fprintf(w, "%s\t%s, %s\t%d\t%d MiB\t%.1f MiB\t%s\t%s\t%s\n", e.ID, k.Machine, k.Accel, k.CPUs, k.MemoryMiB, mib(e.Bytes),
			age(time.Since(e.Manifest.Created)), age(time.Since(e.Used)), state)
	}
	return w.Flush()
}

// templateVerify is the verb verify. It reads all pages, and changes nothing.
func templateVerify(std stdio) *cobra.Command {
	c := newCommand(std, "verify [ID...]", "Reads templates whole, all or those named, and compares their digests.")
	return c.runs(0, -1, func(_ context.Context, ids []string) error {
		store, err := templates(std, c.Command)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			list, err := store.List()
			if err != nil {
				return orRoot(err)
			}
			for _, e := range list {
				ids = append(ids, e.ID)
			}
		}
		// Each template has a line, and one damaged one does not stop the others.
		bad := 0
		for _, id := range ids {
			word := "good"
			if err := store.Verify(id); err != nil {
				word, bad = err.Error(), bad+1
			}
			fmt.Fprintf(std.out, "%s: %s\n", id, word)
		}
		if bad > 0 {
			return notWell("%d of %d templates are damaged: `cloister template gc` removes them", bad, len(ids))
		}
		return nil
	})
}

// templateGC is the verb gc. A sandbox that runs has what it needs open or copied, so it needs no
// file of the store.
func templateGC(std stdio) *cobra.Command {
	c := newCommand(std, "gc [--all]",
		"Removes templates that are damaged, that failed twice, or that are too many or too large\ntogether, the longest "+
			"unused first. Sandboxes that run do not need theirs.")
	all := c.Flags().Bool("all", false, "remove every template")
	return c.runs(0, 0, func(context.Context, []string) error {
		store, err := templates(std, c.Command)
		if err != nil {
			return err
		}
		removed, err := store.GC()
		// Clear after GC, so that what GC removes is named once.
		if *all && err == nil {
			var rest []string
			rest, err = store.Clear()
			removed = append(removed, rest...)
		}
		for _, name := range removed {
			fmt.Fprintf(std.out, "removed %s\n", name)
		}
		return orRoot(err)
	})
}

// templateDisable is the verb disable: a switch for the whole host that needs no change of a
// config, for the time of an incident.
func templateDisable(std stdio) *cobra.Command {
	return templateSwitch(std, "disable", "Has all sandboxes that start from now on start cold, whatever the config says.",
		template.Store.Disable)
}

// templateEnable is the verb enable.
func templateEnable(std stdio) *cobra.Command {
	return templateSwitch(std, "enable", "Ends disable.", template.Store.Enable)
}

// templateSwitch makes a verb of a method of the store; both may be repeated.
func templateSwitch(std stdio, name, about string, do func(template.Store) error) *cobra.Command {
	c := newCommand(std, name, about)
	return c.runs(0, 0, func(context.Context, []string) error {
		store, err := templates(std, c.Command)
		if err != nil {
			return err
		}
		return orRoot(do(store))
	})
}
