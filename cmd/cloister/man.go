// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cloister/cmd/internal/config"
	"cloister/cmd/internal/stamp"
)

// runMan is the verb man, for the build. It is hidden: users have man.
func runMan(std stdio) *cobra.Command {
	c := newCommand(std, "man FOLDER",
		"Writes the manual pages into a folder: cloister.1, and one for each verb. Their text is that of --help.")
	c.Hidden = true
	return c.runs(1, 1, func(_ context.Context, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return err
		}
		return writeManuals(c.Root(), args[0])
	})
}

// writeManuals writes the pages of a command and of those below it. Names are those that man looks
// for: cloister-guest-build.1.
func writeManuals(c *cobra.Command, folder string) error {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
	if err := os.WriteFile(filepath.Join(folder, name), manual(c), 0o644); err != nil { //nolint:gosec // everybody reads it
		return err
	}
	for _, sub := range c.Commands() {
		if err := writeManuals(sub, folder); err != nil {
			return err
		}
	}
	return nil
}

// manual is a command's page, in the macros of man(7). It has no date: two builds are equal. The
// sections are those of man-pages(7).
func manual(c *cobra.Command) []byte {
	var b bytes.Buffer
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"cloister %s\" \"Cloister\"\n", strings.ToUpper(roff(name)), roff(stamp.Version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(c.Short))
	line := c.UseLine()
	if c.HasAvailableSubCommands() {
		line += " VERB [ARGUMENT...]"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(line))
	// The statuses have a section of their own.
	about, exit, _ := strings.Cut(c.Long, statusText)
	if about = strings.TrimSpace(about); about == "" {
		about = c.Short
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(about+exit))
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH VERBS\n")
		for _, sub := range c.Commands() {
			if !sub.Hidden && sub.Name() != "help" {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(sub.Name()), roff(sub.Short))
			}
		}
	}
	options(&b, "OPTIONS", c.NonInheritedFlags())
	options(&b, "COMMON OPTIONS", c.InheritedFlags())
	fmt.Fprintf(&b, ".SH EXIT STATUS\n.nf\n%s\n.fi\n", roff(strings.TrimPrefix(statusText, "Exit status:\n")))
	if c.HasExample() {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	fmt.Fprintf(&b, ".SH FILES\n.TP\n.B %s\nthe settings; the *.toml of config.d beside it are read after it\n", roff(config.Path))
	if c.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", roff(strings.ReplaceAll(c.Parent().CommandPath(), " ", "-")))
	}
	return b.Bytes()
}

// options writes a section of flags, nothing where there are none.
func options(b *bytes.Buffer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		short := ""
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + ", "
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(short+"--"+f.Name+" "+value)), roff(usage))
	})
}

// roff shows text as it is: a backslash, a dash and a dot or quote that begins a line mean
// something to troff. Without it, a flag's dashes become hyphens, which cannot be copied into a
// shell.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
