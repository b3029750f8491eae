// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Store is a host's store of policy modules. The zero value is this host's.
type Store struct {
	// Root is the folder that the host's root is at; empty is this host. Elsewhere nothing is loaded or relabelled.
	Root string
	// Policy is the policy's name below /etc/selinux; empty means the configured one.
	Policy string
	// Audit drops the policy's dontaudit rules, so that every denial is logged. It lasts until the next Install without.
	Audit bool
}

// State is what a store says about the module.
type State struct {
	// Installed says that a module of our name is in the store.
	Installed bool `json:"installed"`
	// Current says that it is the one this program carries. False too where the store does not tell checksums.
	Current bool `json:"current"`
	// Checksum is what the store says about it.
	Checksum string `json:"checksum,omitempty"`
}

// Labelled are the paths whose labels the module's file contexts change.
func Labelled() []string {
	return []string{
		"/usr/bin/containerd-shim-cloister-v2", "/usr/local/bin/containerd-shim-cloister-v2",
		"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd",
		"/usr/share/cloister/guest", "/usr/local/share/cloister/guest",
		"/run/cloister", "/var/lib/cloister",
	}
}

// Install builds the module, puts it into the store and, on this host, loads the policy and relabels what the module's file
// contexts name. Installing it again replaces it.
func (s Store) Install(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "cloister-policy-")
	if err != nil {
		return fmt.Errorf("build policy: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file, err := Build(ctx, dir)
	if err != nil {
		return err
	}
	if _, err := run(ctx, "semodule", s.args("-i", file)...); err != nil {
		return err
	}
	return s.restore(ctx)
}

// Remove takes the module out of the store and relabels what it had named. Running sandboxes lose their labels' meaning:
// the caller sees to it that there are none.
func (s Store) Remove(ctx context.Context) error {
	if _, err := run(ctx, "semodule", s.args("-r", Name)...); err != nil {
		return err
	}
	return s.restore(ctx)
}

// State asks the store. It needs root, as the store's folder does.
func (s Store) State(ctx context.Context) (State, error) {
	out, err := run(ctx, "semodule", s.args("-m", "--list-modules=full")...)
	if err != nil {
		return State{}, err
	}
	state := parseState(out)
	if !state.Installed || state.Checksum == "" {
		return state, nil
	}
	want, err := checksum(ctx)
	if err != nil {
		return state, err
	}
	state.Current = strings.EqualFold(want, state.Checksum)
	return state, nil
}

// parseState reads semodule's long list: priority, name, language, checksum.
func parseState(list string) State {
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != Name {
			continue
		}
		state := State{Installed: true}
		for _, field := range fields[2:] {
			if strings.HasPrefix(field, "sha256:") {
				state.Checksum = field
			}
		}
		return state
	}
	return State{}
}

// args are semodule's, for this store.
func (s Store) args(more ...string) []string {
	var args []string
	if s.Root != "" {
		args = append(args, "-n", "-p", s.Root)
	}
	if s.Policy != "" {
		args = append(args, "-s", s.Policy)
	} else if s.Root != "" {
		args = append(args, "-s", "default")
	}
	if s.Audit {
		args = append(args, "-D")
	}
	return append(args, more...)
}

// restore labels what the file contexts name and is there.
func (s Store) restore(ctx context.Context) error {
	if s.Root != "" {
		return nil
	}
	present := slices.DeleteFunc(Labelled(), func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, os.ErrNotExist)
	})
	if len(present) == 0 {
		return nil
	}
	// -F: user and level too, as a file of ours may have been made by a login's shell.
	_, err := run(ctx, "restorecon", append([]string{"-R", "-F"}, present...)...)
	return err
}

// converter turns a package into the text that the store keeps and takes the checksum of.
func converter() (string, error) {
	for _, path := range []string{"/usr/libexec/selinux/hll/pp", "/usr/lib/selinux/hll/pp"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the converter of policy packages is not here: install the package %s: %w", packages["semodule"], os.ErrNotExist)
}

// checksum is what the store will say about the module that this program carries.
func checksum(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "cloister-policy-")
	if err != nil {
		return "", fmt.Errorf("policy checksum: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file, err := Build(ctx, dir)
	if err != nil {
		return "", err
	}
	pp, err := converter()
	if err != nil {
		return "", err
	}
	text, err := run(ctx, pp, file)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))), nil
}
