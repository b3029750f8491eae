// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"cloister/labels"
	"cloister/sys"
)

// runFcontext has the verbs for labels that stay. A disk that no guest runs from should not have
// the host's default label, which other services may read.
func runFcontext(std stdio) *cobra.Command {
	return group(std, "fcontext", []verb{
		{"add", "label a folder or block device as a guest's that is powered off", fcontextAdd},
		{"remove", "take such a rule away", fcontextRemove},
		{"list", "the host's rules that name guests' types", fcontextList},
	})
}

// fileRule is a rule of the policy's file contexts, as semanage takes it. Rules are the host's,
// kept by semanage, so they survive relabelling and updates.
type fileRule struct {
	kind    string // semanage's letter of a kind of file: a for all, b for block devices
	pattern string // a regular expression for whole paths
	path    string // what is there
}

// fileRules are those for what is at path. A folder's rule is for all in it; a device's for the
// name given and, where that is a link, for what it leads to, whose name may change at the next
// boot. It refuses the system's folders, by the name given and by what it leads to: a rule for /etc
// would relabel the host.
func fileRules(path string) ([]fileRule, error) {
	// semanage matches the text of a path: one with dots would match nothing.
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, fmt.Errorf("path %q: want an absolute one without . and ..: %w", path, errdefs.ErrInvalidArgument)
	}
	// The path must exist: its kind decides the rule's form.
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("path %q: %w: make the folder or device first", path, err)
	} else if err != nil {
		return nil, err
	}
	st, err := os.Stat(target)
	if err != nil {
		return nil, err
	}
	// Udev may give /dev/mapper/NAME another /dev/dm-N at the next boot; the rule for the link's
	// name stays right.
	if st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice {
		rules := []fileRule{{"b", regexp.QuoteMeta(path), path}}
		if target != path {
			rules = append(rules, fileRule{"b", regexp.QuoteMeta(target), target})
		}
		return rules, nil
	}
	for _, p := range []string{path, target} {
		if above, is := systemFolder(p); is {
			// The folder above is named in the error, since the path may lead there by a link.
			return nil,
				fmt.Errorf("path %q is in %s, a system folder or a home: use a folder of its own, as in /srv "+
					"or /var/lib: %w",
					p, above, errdefs.ErrInvalidArgument)
		}
	}
	switch {
	// The pattern covers the folder itself and all in it.
	case st.IsDir():
		return []fileRule{{"a", regexp.QuoteMeta(target) + "(/.*)?", target}}, nil
	case st.Mode().IsRegular():
		return []fileRule{{"f", regexp.QuoteMeta(target), target}}, nil
	}
	return nil, fmt.Errorf("path %q is neither folder, file nor block device: %w", path, errdefs.ErrInvalidArgument)
}

// fcontextAdd is the verb add. It may be repeated: a rule that is there is changed.
func fcontextAdd(std stdio) *cobra.Command {
	c := newCommand(std, "add [--type TYPE] [--now] [--dry-run] PATH...",
		"Adds file-context rules, so that what is in a disk store, or a block device, has the label of a guest's disk that is\n"+
			"powered off whenever the host labels it; no guest may read it then. At a start the sandbox's own label takes its place.")
	setype := c.Flags().String("type", labels.Own(true).PoweredOff, "the `type` to give; libvirt's is virt_image_t")
	now := c.Flags().Bool("now", true, "also label what is there already")
	dry := c.Flags().Bool("dry-run", false, "only print the commands")
	return c.runs(1, -1, func(ctx context.Context, paths []string) error {
		// It becomes an argument of semanage, and part of a policy.
		if !typeName.MatchString(*setype) {
			return fmt.Errorf("type %q: want a name as virt_image_t: %w", *setype, errdefs.ErrInvalidArgument)
		}
		return eachRule(paths, func(r fileRule) error {
			// -a refuses a rule that is there, -m one that is not.
			add := []string{"semanage", "fcontext", "-a", "-f", r.kind, "-t", *setype, "-r", "s0", r.pattern}
			modify := slices.Clone(add)
			modify[2] = "-m"
			if *dry {
				fmt.Fprintln(std.out, shellLine(add))
			} else if err := tool(ctx, std.out, add); err != nil {
				if tool(ctx, std.out, modify) != nil {
					return err
				}
			}
			if !*now {
				return nil
			}
			// -F also changes user, role and level, which a rule for s0 needs.
			restore := []string{"restorecon", "-RFv", r.path}
			if *dry {
				fmt.Fprintln(std.out, shellLine(restore))
				return nil
			}
			return tool(ctx, std.out, restore)
		})
	})
}

// typeName is what a type may be called. The text goes to semanage as an argument, so it may not
// look like a flag.
var typeName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,126}$`)

// fcontextRemove is the verb remove.
func fcontextRemove(std stdio) *cobra.Command {
	c := newCommand(std, "remove [--dry-run] PATH...",
		"Takes the rules away that add made, and labels what is there as the policy says then.")
	dry := c.Flags().Bool("dry-run", false, "only print the commands")
	return c.runs(1, -1, func(ctx context.Context, paths []string) error {
		return eachRule(paths, func(r fileRule) error {
			for _, line := range [][]string{{"semanage", "fcontext", "-d", "-f", r.kind, r.pattern}, {"restorecon", "-RFv", r.path}} {
				if *dry {
					fmt.Fprintln(std.out, shellLine(line))
				} else if err := tool(ctx, std.out, line); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// eachRule stops at the first error: rules before it stay, and the command can be repeated.
func eachRule(paths []string, do func(fileRule) error) error {
	for _, path := range paths {
		rules, err := fileRules(path)
		if err != nil {
			return fmt.Errorf("policy fcontext: %w", err)
		}
		for _, r := range rules {
			if err := do(r); err != nil {
				return fmt.Errorf("policy fcontext %s: %w", r.pattern, err)
			}
		}
	}
	return nil
}

// fcontextList is the verb list; others' rules for libvirt's types are shown too, since they may
// cover the same path.
func fcontextList(std stdio) *cobra.Command {
	c := newCommand(std, "list", "Prints the rules of the policy and of this host that name guests' types.")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		var out bytes.Buffer
		if err := tool(ctx, &out, []string{"semanage", "fcontext", "-l", "-n"}); err != nil {
			return fmt.Errorf("policy fcontext: %w", err)
		}
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, ":cloister_") || strings.Contains(line, ":virt_image_t") || strings.Contains(line, ":svirt_image_t") {
				if _, err := io.WriteString(std.out, line); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// tool runs one of the policy tools; what it says is in the error. The programs are asked for by
// name: they are part of the distribution, and do under a lock what must not be done twice.
func tool(ctx context.Context, out io.Writer, line []string) error {
	packages := map[string]string{"semanage": "policycoreutils-python-utils", "restorecon": "policycoreutils"}
	path, err := sys.Program(line[0])
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed: install the package %s: %w", line[0], packages[line[0]], err)
	}
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, line[1:]...)
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &messages
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", line[0], err, strings.TrimSpace(messages.String()))
	}
	return nil
}

// shellLine is a command as people can copy it.
func shellLine(words []string) string {
	quoted := make([]string, 0, len(words))
	for _, w := range words {
		quoted = append(quoted, quote(w))
	}
	return strings.Join(quoted, " ")
}
