// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cloister/cmd/internal/config"
	"cloister/sandbox"
)

// grade is how a line of the check came out. It is text, as JSON and the table print it.
type grade string

// The grades. Only gradeFail stops a sandbox from starting, or would let one start less protected
// than it says.
const (
	gradeOK   grade = "ok"
	gradeWarn grade = "warn"
	gradeFail grade = "fail"
)

// finding is one line of the check. The name identifies the line for scripts and golden files;
// found and remedy are for people.
type finding struct {
	Area   string `json:"area"`
	Name   string `json:"name"`
	Grade  grade  `json:"grade"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// ok, warn and fail make one line each. found is a format of fmt. The remedy is a command or one
// sentence: who reads it is in the middle of an incident.
func ok(name, found string, args ...any) finding {
	return finding{Name: name, Grade: gradeOK, Found: fmt.Sprintf(found, args...)}
}

// warn is for a host on which sandboxes start, and are less protected or slower than they could be.
func warn(name, found, remedy string) finding {
	return finding{Name: name, Grade: gradeWarn, Found: found, Remedy: remedy}
}

// fail is for a host on which no sandbox starts, or would start with less than the config promises.
func fail(name, found, remedy string) finding {
	return finding{Name: name, Grade: gradeFail, Found: found, Remedy: remedy}
}

// failed is a finding from an error; cloister's own end in their remedy. One line: errors are
// joined by newlines, and the table has one row for each finding.
func failed(name string, err error) finding {
	return fail(name, strings.ReplaceAll(err.Error(), "\n", "; "), "")
}

// area is a part of the check. Each area has a file of its own, check_*.go. check must not change
// anything on the host.
type area struct {
	name  string
	check func(context.Context, *site) []finding
}

// areas are in the order in which a new host is made ready; a later area may repeat the consequence
// of an earlier one.
func areas() []area {
	return []area{
		{"host", checkHost},
		{"config", checkConfig},
		{"programs", checkPrograms},
		{"guest image", checkImage},
		{"labels", checkLabels},
		{"jail", checkJail},
		{"booleans", checkBooleans},
		{"folders", checkFolders},
		{"hardening", checkHardening},
		{"network", checkNetwork},
	}
}

// runCheck is the verb check. It may run without root, and says then what it could not see.
func runCheck(std stdio) *cobra.Command {
	c := newCommand(std, "check [--quiet] [--json]",
		"Says whether this host can run sandboxes, and how well they are kept apart. Ends with status 3\n"+
			"when a line says fail.")
	c.withOutput("table")
	quiet := c.Flags().Bool("quiet", false, "only lines that are not ok")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openSite(configOf(c.Command))
		// A broken config is a finding and not the end: the other areas are checked with the
		// defaults, so one run shows everything.
		if err != nil {
			// Nothing of a config that could not be read is used, not even its folders.
			s = &site{file: configOf(c.Command), config: withDefaults(sandbox.Config{}), broken: err}
		}
		list := s.check(ctx, areas())
		done, err := c.emit(list)
		if !done && err == nil {
			err = printFindings(std.out, list, *quiet)
		}
		if err != nil {
			return err
		}
		// After the output: a script reads the lines and the status.
		return verdict(list)
	})
}

// check runs the areas in order. An area never returns an error: what it cannot see is a finding.
func (s *site) check(ctx context.Context, table []area) []finding {
	var list []finding
	for _, a := range table {
		for _, f := range a.check(ctx, s) {
			f.Area = a.name
			list = append(list, f)
		}
	}
	return list
}

// count counts the lines of a grade.
func count(list []finding, g grade) int {
	n := 0
	for _, f := range list {
		if f.Grade == g {
			n++
		}
	}
	return n
}

// verdict makes the exit status: warnings alone are well, since sandboxes start.
func verdict(list []finding) error {
	if n := count(list, gradeFail); n > 0 {
		return notWell("check: %d of %d lines say fail", n, len(list))
	}
	return nil
}

// printFindings prints the table. An area's heading comes with its first line that is shown.
func printFindings(out io.Writer, list []finding, quiet bool) error {
	area := ""
	width := 0
	for _, f := range list {
		// Over all lines, so that columns stand alike with and without --quiet.
		width = max(width, len(f.Name))
	}
	for _, f := range list {
		if quiet && f.Grade == gradeOK {
			continue
		}
		if f.Area != area {
			area = f.Area
			fmt.Fprintf(out, "%s\n", area)
		}
		fmt.Fprintf(out, "  %-4s  %-*s  %s\n", f.Grade, width, f.Name, f.Found)
		if f.Remedy != "" {
			fmt.Fprintf(out, "        %-*s  -> %s\n", width, "", f.Remedy)
		}
	}
	// With --quiet, too: no line at all could also mean that nothing was checked.
	_, err := fmt.Fprintf(out, "%d ok, %d warn, %d fail\n", count(list, gradeOK), count(list, gradeWarn), count(list, gradeFail))
	return err
}

// checkConfig says which config counts. The path helps where CLOISTER_CONFIG or --config names
// another one than people look at.
func checkConfig(_ context.Context, s *site) []finding {
	if s.broken != nil {
		f := failed("file", s.broken)
		// The error has the place and the key; the remedy is about what follows.
		f.Remedy = "correct it: no sandbox starts. What follows was checked with the defaults"
		return []finding{f}
	}
	// A missing config is the usual case of a new host.
	path, _ := config.Where(s.file)
	if _, err := os.Stat(path); err != nil {
		return []finding{ok("file", "%s is not there: every setting has its default", path)}
	}
	return []finding{ok("file", "%s; state %s, root %s", path, s.config.State, s.config.Root)}
}
