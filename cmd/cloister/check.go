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

// grade is how a line of the check came out.
type grade string

// The grades. Only gradeFail stops a sandbox from starting, or would let one start less protected
// than it says.
const (
	gradeOK   grade = "ok"
	gradeWarn grade = "warn"
	gradeFail grade = "fail"
)

// finding is one line of the check.
type finding struct {
	Area   string `json:"area"`
	Name   string `json:"name"`
	Grade  grade  `json:"grade"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

func ok(name, found string, args ...any) finding {
	return finding{Name: name, Grade: gradeOK, Found: fmt.Sprintf(found, args...)}
}

func warn(name, found, remedy string) finding {
	return finding{Name: name, Grade: gradeWarn, Found: found, Remedy: remedy}
}

func fail(name, found, remedy string) finding {
	return finding{Name: name, Grade: gradeFail, Found: found, Remedy: remedy}
}

// failed is a finding from an error; cloister's own end in their remedy.
func failed(name string, err error) finding {
	return fail(name, strings.ReplaceAll(err.Error(), "\n", "; "), "")
}

// area is a part of the check.
type area struct {
	name  string
	check func(context.Context, *site) []finding
}

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

func runCheck(std stdio) *cobra.Command {
	c := newCommand(std, "check [--quiet] [--json]",
		"Says whether this host can run sandboxes, and how well they are kept apart. Ends with status 3\n"+
			"when a line says fail.")
	c.withOutput("table")
	quiet := c.Flags().Bool("quiet", false, "only lines that are not ok")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
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
		return verdict(list)
	})
}

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

func count(list []finding, g grade) int {
	n := 0
	for _, f := range list {
		if f.Grade == g {
			n++
		}
	}
	return n
}

func verdict(list []finding) error {
	if n := count(list, gradeFail); n > 0 {
		return notWell("check: %d of %d lines say fail", n, len(list))
	}
	return nil
}

func printFindings(out io.Writer, list []finding, quiet bool) error {
	area := ""
	width := 0
	for _, f := range list {
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
	_, err := fmt.Fprintf(out, "%d ok, %d warn, %d fail\n", count(list, gradeOK), count(list, gradeWarn), count(list, gradeFail))
	return err
}

func checkConfig(_ context.Context, s *site) []finding {
	if s.broken != nil {
		f := failed("file", s.broken)
		f.Remedy = "correct it: no sandbox starts. What follows was checked with the defaults"
		return []finding{f}
	}
	path, _ := config.Where(s.file)
	if _, err := os.Stat(path); err != nil {
		return []finding{ok("file", "%s is not there: every setting has its default", path)}
	}
	return []finding{ok("file", "%s; state %s, root %s", path, s.config.State, s.config.Root)}
}
