// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cloister/cmd/internal/config"
	"cloister/labels/apparmor"
	"cloister/labels/lsm"
	"cloister/sandbox"
	"cloister/vmm/guestimage"
)

// site is the host and its settings as a verb sees them. A verb opens one and hands it to
// everything else; nothing is global, so tests have a host of their own.
type site struct {
	file   string // the config's, when it was named
	config sandbox.Config
	broken error // of the config, whose place the defaults have taken
	host   lsm.Host
	// profiles is the host as AppArmor has it.
	profiles apparmor.Host
	root     string // goes before every path of the host; empty but in tests
}

// openSite reads the config, from path when that is not empty. Any error of the config is an error
// of the verb.
func openSite(path string) (*site, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	return &site{file: path, config: withDefaults(c)}, nil
}

// openFolders is openSite for a verb that needs only the folders: a wrong key in the config is a
// warning, and the verb goes on. Cleanup and listing must work with a config that a start refuses:
// one wrong key must not keep gc from a host that is full.
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

// withDefaults fills in the folders and the image, as the shim does. The small kernel's image is
// taken where it is installed.
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

// path is where a file of the host is. Paths of the host go through it, so that a test's folder
// takes the place of /.
func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{"/", s.root}, parts...)...)
}

// command is a verb as it is made: its flags, then what it does. format and asJSON are nil for a
// verb without withOutput.
type command struct {
	*cobra.Command
	std    stdio
	format *string // of the output: table, json or yaml
	asJSON *bool
}

// newCommand makes the verb of a line of usage, which begins with its name. Completion of file
// names is off unless a verb asks for it.
func newCommand(std stdio, usage, about string) command {
	return command{Command: &cobra.Command{
		Use: usage, Long: about, DisableFlagsInUseLine: true, ValidArgsFunction: cobra.NoFileCompletions,
	}, std: std}
}

// runs says what the verb does, with between least and most arguments; most < 0 is no bound.
// Arguments and --output are checked before the config is read, so that wrong usage is said first.
func (c *command) runs(least, most int, do func(ctx context.Context, args []string) error) *cobra.Command {
	c.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return wrongUsage(cmd, fmt.Errorf("got %d arguments, want at least %d", len(args), least))
		case most >= 0 && len(args) > most:
			return wrongUsage(cmd, fmt.Errorf("unexpected argument %q", args[most]))
		}
		if err := c.checkOutput(); err != nil {
			return wrongUsage(cmd, err)
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, args []string) error { return do(cmd.Context(), args) }
	return c.Command
}

// ofSandboxes completes the first argument with the sandboxes there are. Completion runs on each
// press of the tab key: errors are silent, and without root the list is empty.
func (c *command) ofSandboxes() {
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, err := openFolders(stdio{io.Discard, io.Discard}, configOf(cmd))
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		boxes, _ := s.sandboxes() // none that this user may see
		names := make([]string, 0, len(boxes))
		for _, b := range boxes {
			names = append(names, b.name())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// configOf is the file that --config names. The root has the flag, so every verb accepts it.
func configOf(c *cobra.Command) string {
	path, _ := c.Flags().GetString("config") // every verb has it from the root
	return path
}

// orRoot adds to a refusal who would be let in. The usual cause by far: records and journals are
// root's.
func orRoot(err error) error {
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run it as root", err)
	}
	return err
}
