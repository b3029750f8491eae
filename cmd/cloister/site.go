// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cloister/cmd/internal/config"
	"cloister/labels/lsm"
	"cloister/sandbox"
	"cloister/vmm/guestimage"
)

// site is the host and its settings as a verb sees them.
type site struct {
	file   string // the config's, when it was named
	config sandbox.Config
	broken error // of the config, whose place the defaults have taken
	host   lsm.Host
	root   string // goes before every path of the host; empty but in tests
}

// openSite reads the config, from path when that is not empty.
func openSite(path string) (*site, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	return &site{file: path, config: withDefaults(c)}, nil
}

// openFolders is openSite for a verb that needs only the folders: what is wrong in the config
// is said, and the verb goes on.
func openFolders(std stdio, path string) (*site, error) {
	c, problem, err := config.Folders(path)
	if err != nil {
		return nil, err
	}
	if problem != nil {
		fmt.Fprintf(std.err, "cloister: no sandbox starts with this config: %v\n", problem)
	}
	return &site{file: path, config: withDefaults(c)}, nil
}

func withDefaults(c sandbox.Config) sandbox.Config {
	c.State = cmp.Or(c.State, config.DefaultState)
	c.Root = cmp.Or(c.Root, config.DefaultRoot)
	if c.Guest.Image != "" {
		return c
	}
	c.Guest.Image = filepath.Join(guestDir, string(guestimage.Small))
	if _, err := os.Stat(c.Guest.Image); err != nil {
		c.Guest.Image = filepath.Join(guestDir, string(guestimage.Distro))
	}
	return c
}

// path is where a file of the host is.
func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{"/", s.root}, parts...)...)
}

// command is a verb's flags, with the two that nearly all verbs have.
type command struct {
	*flag.FlagSet
	asJSON *bool
	config *string
}

// newCommand makes flags whose help begins with the line "cloister " + synopsis.
func newCommand(synopsis, about string) command {
	flags := flag.NewFlagSet("cloister", flag.ContinueOnError)
	c := command{FlagSet: flags}
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "Usage: cloister %s\n\n%s\n\n", synopsis, about)
		flags.PrintDefaults()
	}
	c.config = flags.String("config", "", "`file` to read the settings from (default $"+config.Env+", else "+config.Path+")")
	return c
}

// withJSON adds --json.
func (c *command) withJSON() {
	c.asJSON = c.Bool("json", false, "print JSON, for programs")
}

// arguments parses flags wherever they stand, and demands between least and
// most other arguments; most < 0 is no bound.
func (c *command) arguments(std stdio, args []string, least, most int) ([]string, error) {
	var rest []string
	for {
		if err := parse(c.FlagSet, std, args); err != nil {
			return nil, err
		}
		if c.NArg() == 0 {
			break
		}
		rest, args = append(rest, c.Arg(0)), c.Args()[1:]
	}
	switch {
	case len(rest) < least:
		fmt.Fprintf(std.err, "cloister: %d of %d arguments given\n", len(rest), least)
	case most >= 0 && len(rest) > most:
		fmt.Fprintf(std.err, "cloister: unexpected argument %q\n", rest[most])
	default:
		return rest, nil
	}
	c.Usage()
	return nil, errUsage
}

func printJSON(out io.Writer, value any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// orRoot adds to a refusal who would be let in.
func orRoot(err error) error {
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run it as root", err)
	}
	return err
}
