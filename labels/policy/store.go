// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Store is a host's store of policy modules. The zero value is this host's. It holds no state; the
// store's own lock is semodule's.
type Store struct {
	// Root is the folder that the host's root is at; empty is this host. Elsewhere nothing is
	// loaded or relabelled.
	Root string
	// Policy is the policy's name below /etc/selinux; empty means the configured one.
	Policy string
	// Audit drops the policy's dontaudit rules, so that every denial is logged. It lasts until the
	// next Install without.
	Audit bool
}

// State is what a store says about the module. The zero value means that none is installed.
type State struct {
	// Installed says that both modules of our names are in the store.
	Installed bool `json:"installed"`
	// Partial says that one of them is missing, as after the install of an earlier cloister.
	Partial bool `json:"partial,omitempty"`
	// Current says that they are those that this program carries. False too where the store does
	// not tell checksums.
	Current bool `json:"current"`
	// Checksums are what the store says about them, by module.
	Checksums map[string]string `json:"checksums,omitempty"`
}

// Labelled are the paths whose labels the module's file contexts change. They are labelled after an
// install and after a removal. /var/run/cloister is not among them: it is /run/cloister.
func Labelled() []string {
	return []string{
		"/usr/bin/containerd-shim-cloister-v2", "/usr/local/bin/containerd-shim-cloister-v2",
		"/opt/cloister", // where an installer of clusters puts each version
		"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd",
		"/usr/share/cloister/guest", "/usr/local/share/cloister/guest",
		"/run/cloister", "/var/lib/cloister",
	}
}

// Plan says, a line each, what Install will do here. It changes nothing, for --dry-run.
func (s Store) Plan(ctx context.Context) ([]string, error) {
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	verb := "add"
	if state.Installed || state.Partial {
		verb = "replace"
	}
	plan := []string{fmt.Sprintf("%s the modules %s in the store of policy %q, in one transaction", verb,
		strings.Join(Modules(), " and "), s.name())}
	if s.Root != "" {
		return append(plan, "load nothing and relabel nothing: the root is "+s.Root), nil
	}
	plan = append(plan, "load the policy that results")
	for _, path := range present() {
		plan = append(plan, "label "+path+" and what is below it as the new file contexts say (restorecon -RF)")
	}
	return plan, nil
}

// Install builds the module, puts it and its constraints into the store in one transaction and, on
// this host, loads the policy and relabels what the module's file contexts name. Installing it
// again replaces it. When the labels cannot be set, a module that was not there before is taken out
// again.
func (s Store) Install(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "cloister-policy-")
	if err != nil {
		return fmt.Errorf("build policy: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built, err := Build(ctx, dir)
	if err != nil {
		return err
	}
	before, err := s.State(ctx)
	if err != nil {
		return err
	}
	if _, err := run(ctx, "semodule", s.args("-i", built.Package, "-i", built.Constraints)...); err != nil {
		return err
	}
	err = s.restore(ctx)
	if err != nil && !before.Installed && !before.Partial {
		return errors.Join(fmt.Errorf("%w: the module is taken out again", err), s.Remove(context.WithoutCancel(ctx)))
	}
	return err
}

// Remove takes the module and its constraints out of the store in one transaction and relabels what
// they had named. Running sandboxes lose their labels' meaning: the caller sees to it that there
// are none. A module of an earlier install that is there alone is removed as well.
func (s Store) Remove(ctx context.Context) error {
	state, err := s.State(ctx)
	if err != nil {
		return err
	}
	var args []string
	for _, name := range Modules() {
		if _, there := state.Checksums[name]; there {
			args = append(args, "-r", name)
		}
	}
	if len(args) == 0 {
		return nil
	}
	if _, err := run(ctx, "semodule", s.args(args...)...); err != nil {
		return fmt.Errorf("%w: the module cannot be removed while rules of this host name cloister's types: list them with: "+
			"cloister policy fcontext list, semanage export", err)
	}
	return s.restore(ctx)
}

// State asks the store. It needs root, as the store's folder does. To tell whether the module is
// current, it compiles the one that this program carries and compares checksums: semodule keeps no
// version.
func (s Store) State(ctx context.Context) (State, error) {
	out, err := run(ctx, "semodule", s.args("-m", "--list-modules=full")...)
	if err != nil {
		return State{}, err
	}
	state := parseState(out)
	if !state.Installed {
		return state, nil
	}
	want, err := checksums(ctx)
	if err != nil {
		return state, err
	}
	state.Current = true
	for name, sum := range want {
		state.Current = state.Current && strings.EqualFold(sum, state.Checksums[name])
	}
	return state, nil
}

// parseState reads semodule's long list: priority, name, language, checksum. Versions of semodule
// without checksums leave the last one out.
func parseState(list string) State {
	found := map[string]string{}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.Contains(Modules(), fields[1]) {
			continue
		}
		found[fields[1]] = ""
		for _, field := range fields[2:] {
			if strings.HasPrefix(field, "sha256:") {
				found[fields[1]] = field
			}
		}
	}
	switch len(found) {
	case 0:
		return State{}
	case len(Modules()):
		return State{Installed: true, Checksums: found}
	}
	return State{Partial: true, Checksums: found}
}

// name is the policy's, as configured on the host or at the root; "default", as Debian calls its
// own, where nothing is configured.
func (s Store) name() string {
	if s.Policy != "" {
		return s.Policy
	}
	if name := Configured(s.Root); name != "" {
		return name
	}
	return "default"
}

// Configured is the name of the policy that a host is configured to load, as "targeted"; empty
// where it says none.
func Configured(root string) string {
	text, err := os.ReadFile(filepath.Join(root, "/etc/selinux/config"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), "SELINUXTYPE="); found {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// args are semodule's, for this store. At another root nothing is loaded (-n), and the policy must
// be named, as semodule would otherwise take this host's.
func (s Store) args(more ...string) []string {
	var args []string
	if s.Root != "" {
		args = append(args, "-n", "-p", s.Root)
	}
	if s.Policy != "" {
		args = append(args, "-s", s.Policy)
	} else if s.Root != "" {
		args = append(args, "-s", s.name())
	}
	if s.Audit {
		args = append(args, "-D")
	}
	return append(args, more...)
}

// restore labels what the file contexts name and is there.
func (s Store) restore(ctx context.Context) error {
	paths := present()
	if s.Root != "" || len(paths) == 0 {
		return nil
	}
	// -F: user and level too, as a file of ours may have been made by a login's shell.
	_, err := run(ctx, "restorecon", append([]string{"-R", "-F"}, paths...)...)
	return err
}

// present are those of the labelled paths that this host has.
func present() []string {
	return slices.DeleteFunc(Labelled(), func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}

// converter turns a package into the text that the store keeps and takes the checksum of.
// Distributions have it in one of two places.
func converter() (string, error) {
	for _, path := range []string{"/usr/libexec/selinux/hll/pp", "/usr/lib/selinux/hll/pp"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the converter of policy packages is not installed: install the package %s: %w",
		packages["semodule"], os.ErrNotExist)
}

// checksums are what the store will say about the modules that this program carries. semodule takes
// them of the intermediate language, into which the package is converted as the store does it.
func checksums(ctx context.Context) (map[string]string, error) {
	dir, err := os.MkdirTemp("", "cloister-policy-")
	if err != nil {
		return nil, fmt.Errorf("policy checksum: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built, err := Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	pp, err := converter()
	if err != nil {
		return nil, err
	}
	text, err := run(ctx, pp, built.Package)
	if err != nil {
		return nil, err
	}
	constraints, err := Source("cil")
	if err != nil {
		return nil, err
	}
	sum := func(text []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(text)) }
	return map[string]string{Name: sum([]byte(text)), ConstraintsName: sum(constraints)}, nil
}
