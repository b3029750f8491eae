// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/policy"
)

// runPolicy has the verbs about the SELinux module.
func runPolicy(std stdio) *cobra.Command {
	return group(std, "policy", []verb{
		{"install", "build the module, load it, label cloister's files", policyInstall},
		{"remove", "take the module out", policyRemove},
		{"status", "what SELinux does here, and whether the module is in", policyStatus},
		{"test", "ask the kernel whether two sandboxes are kept apart", policyTest},
		{"fcontext", "rules that label a disk store or a block device for good", runFcontext},
	})
}

// storeFlags are those of a verb that works on a store of modules. With --root, an image is
// prepared for another host: nothing of this one is loaded or labelled.
func storeFlags(c *command) *policy.Store {
	store := &policy.Store{}
	c.Flags().StringVar(&store.Root, "root", "", "`folder` that the host's root is at, to prepare an image: nothing is loaded")
	c.Flags().StringVar(&store.Policy, "policy", "", "the policy's `name` below /etc/selinux (default the configured one)")
	return store
}

// policyInstall is the verb install. It says what it will do first; module and constraints go in
// one transaction, so that no moment has one without the other.
func policyInstall(std stdio) *cobra.Command {
	c := newCommand(std, "install [--audit] [--dry-run]",
		"Builds cloister's policy module and its constraints, puts both into the host's store in one transaction, loads the\n"+
			"policy, and labels the files it names. Installing it again replaces it; cloister policy remove takes all of it back.")
	store := storeFlags(&c)
	c.Flags().BoolVar(&store.Audit, "audit", false, "log every denial, those too that the policy is silent about; until the next install")
	dry := c.Flags().Bool("dry-run", false, "only say what it will do")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		if err := hasPolicy(cmp.Or(store.Root, "/"), store.Policy); err != nil {
			// Not an error: the host has what it needs.
			if enabled, failed := s.profiles.Enabled(); failed == nil && enabled && store.Root == "" && errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintln(std.out, "this host has AppArmor: nothing to install: "+
					"each start loads its sandbox's own profile, and the stop removes it")
				return nil
			}
			return fmt.Errorf("policy install: %w", err)
		}
		plan, err := store.Plan(ctx)
		if err != nil {
			return orRoot(fmt.Errorf("policy install: %w", err))
		}
		for _, line := range plan {
			fmt.Fprintln(std.out, line)
		}
		if *dry {
			return nil
		}
		if err := store.Install(ctx); err != nil {
			return orRoot(fmt.Errorf("policy install: %w", err))
		}
		fmt.Fprintln(std.out, "installed")
		// A module may be installed before the reboot that switches SELinux on.
		if enabled, err := s.host.Enabled(); err == nil && !enabled && store.Root == "" {
			fmt.Fprintln(std.err, "SELinux is not enabled: the module has its effect after a boot with security=selinux")
		}
		return nil
	})
}

// hasPolicy is an error where a host, whose root is at the folder, has no policy that a module
// could go into. Said before semodule does, whose message names no package.
func hasPolicy(root, name string) error {
	const remedy = "install one first: selinux-policy-default (Debian), selinux-policy-targeted (Fedora)"
	if name == "" {
		text, err := os.ReadFile(filepath.Join(root, "etc/selinux/config"))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("this host has no SELinux policy: %w: %s", err, remedy)
		}
		if err != nil {
			return orRoot(err)
		}
		for line := range strings.Lines(string(text)) {
			if value, found := strings.CutPrefix(strings.TrimSpace(line), "SELINUXTYPE="); found {
				name = strings.TrimSpace(value)
			}
		}
	}
	// The config may name a policy whose package is gone.
	if _, err := os.Stat(filepath.Join(root, "etc/selinux", name, "contexts")); errors.Is(err, fs.ErrNotExist) || name == "" {
		return fmt.Errorf("the SELinux policy %q of /etc/selinux/config is not on this host: %s: %w", name, remedy, errdefs.ErrNotFound)
	}
	return nil
}

// policyRemove is the verb remove. While sandboxes run their types must stay: the kernel would
// treat processes and files of unknown types as unlabeled.
func policyRemove(std stdio) *cobra.Command {
	c := newCommand(std, "remove [--force]",
		"Takes cloister's policy module out of the host's store. Sandboxes that run would lose what protects them.")
	store := storeFlags(&c)
	force := c.Flags().Bool("force", false, "even while sandboxes run")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		boxes, err := s.sandboxes()
		if err != nil {
			return err
		}
		// --force is for hosts that are taken down; sandboxes at work lose their types' rules.
		for _, b := range boxes {
			if l := b.label(); b.state() == stateRunning && strings.HasPrefix(l.Type, "cloister_") && !*force && store.Root == "" {
				return fmt.Errorf("policy remove: sandbox %s runs as %s: stop it first, or use --force", b.name(), l)
			}
		}
		state, err := store.State(ctx)
		if err != nil {
			return orRoot(fmt.Errorf("policy remove: %w", err))
		}
		// Half a module counts: remove takes away what is there.
		if !state.Installed && !state.Partial {
			fmt.Fprintln(std.out, "was not installed")
			return nil
		}
		if err := store.Remove(ctx); err != nil {
			return orRoot(fmt.Errorf("policy remove: %w", err))
		}
		fmt.Fprintln(std.out, "removed")
		return nil
	})
}

// policyReport is what status says. Problem is set where the store cannot be read, as without root;
// the kernel's side is shown all the same.
type policyReport struct {
	Enabled   bool         `json:"enabled"`
	Enforcing bool         `json:"enforcing"`
	Module    policy.State `json:"module"`
	Digest    string       `json:"digest"` // of the module that this program carries
	Problem   string       `json:"problem,omitempty"`
	// Loads counts the policies loaded since boot; DenyUnknown is whether classes that the policy
	// does not know are denied.
	Loads       uint32 `json:"loads,omitempty"`
	DenyUnknown bool   `json:"denyUnknown,omitempty"`
}

// policyStatus is the verb status.
func policyStatus(std stdio) *cobra.Command {
	c := newCommand(std, "status [--json]", "Says whether SELinux is on, and whether cloister's module is installed and is this program's.")
	c.withOutput("table")
	store := storeFlags(&c)
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		r := policyReport{Digest: policy.Digest()}
		if r.Enabled, err = s.host.Enabled(); err != nil {
			return err
		}
		if r.Enabled {
			status, err := s.host.Status()
			if err != nil {
				return orRoot(err)
			}
			r.Enforcing, r.Loads, r.DenyUnknown = status.Enforcing, status.PolicyLoads, status.DenyUnknown
		}
		if r.Module, err = store.State(ctx); err != nil {
			r.Problem = orRoot(err).Error()
		}
		if done, err := c.emit(r); done {
			return err
		}
		fmt.Fprintf(std.out, "SELinux  %s\nmodule   %s\n", r.mode(), r.module())
		return nil
	})
}

// mode is the line about the kernel.
func (r policyReport) mode() string {
	switch {
	case !r.Enabled:
		return "not enabled: boot with security=selinux and a policy"
	case !r.Enforcing:
		return fmt.Sprintf("permissive, %d policies loaded since boot: setenforce 1", r.Loads)
	}
	return fmt.Sprintf("enforcing, %d policies loaded since boot", r.Loads)
}

// module is the line about the store, with the command that helps.
func (r policyReport) module() string {
	switch {
	case r.Problem != "":
		return "not known: " + r.Problem
	case r.Module.Partial:
		return "only one of its two modules (rules, constraints) is installed: cloister policy install"
	case !r.Module.Installed:
		return "not installed: cloister policy install"
	case !r.Module.Current:
		return "installed, but not of this version of cloister: cloister policy install"
	}
	return "installed and current"
}

// tested is one set of types and how it came out. A set that the policy does not have is absent,
// which is not a failure.
type tested struct {
	Types   string `json:"types"`
	QEMU    string `json:"qemu"`
	Passed  bool   `json:"passed"`
	Absent  bool   `json:"absent,omitempty"` // this policy has no such types
	Problem string `json:"problem,omitempty"`
}

// policyTest is the verb test. It asks the questions of the self-test that each start asks, for all
// sets of types.
func policyTest(std stdio) *cobra.Command {
	c := newCommand(std, "test [--file POLICY]",
		"Asks the kernel, for each set of types that a sandbox may get, whether the loaded policy lets a pair of\n"+
			"categories have its own files and keeps it from another's. Ends with status 3 when no set passes.")
	c.withOutput("table")
	file := c.Flags().String("file", "",
		"a compiled `policy`, as /etc/selinux/targeted/policy/policy.33, that is asked in the kernel's place (by checkpolicy)")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		s, err := openSite(configOf(c.Command))
		if err != nil {
			return err
		}
		kernel, end, err := s.policyKernel(ctx, *file)
		if err != nil {
			return fmt.Errorf("policy test: %w", err)
		}
		defer end()
		list, passed := s.testTypes(kernel)
		done, err := c.emit(list)
		if !done {
			for _, t := range list {
				switch {
				case t.Passed:
					fmt.Fprintf(std.out, "ok    %s (%s)\n", t.Types, t.QEMU)
				case t.Absent:
					fmt.Fprintf(std.out, "-     %s (%s): not in this policy\n", t.Types, t.QEMU)
				default:
					fmt.Fprintf(std.out, "fail  %s (%s): %s\n", t.Types, t.QEMU, t.Problem)
				}
			}
		}
		// One set that passes is enough: a start takes the first that does.
		if err == nil && passed == 0 {
			return notWell("policy test: no set of types keeps sandboxes apart: cloister policy install")
		}
		return err
	})
}

// policyKernel is who answers for the loaded policy, or for one in a file. end is called when
// nothing more is asked. A compiled policy is asked by checkpolicy, so that an image can be tested
// on a host without SELinux.
func (s *site) policyKernel(ctx context.Context, file string) (k policy.Kernel, end func(), err error) {
	if file != "" {
		compiled, err := policy.OpenCompiled(ctx, file)
		if err != nil {
			return nil, nil, err
		}
		return compiled, func() { _ = compiled.Close() }, nil
	}
	enabled, err := s.host.Enabled()
	if err == nil && !enabled {
		err = fmt.Errorf("%w: boot with security=selinux and a policy", lsm.ErrDisabled)
	}
	return policy.Selinuxfs{Root: s.host.SELinux}, func() {}, err
}

// testTypes asks for guests with KVM and for emulated ones, which write code and have other types.
func (s *site) testTypes(kernel policy.Kernel) (list []tested, passed int) {
	for _, kvm := range []bool{true, false} {
		for _, types := range labels.Candidates(kvm) {
			t := tested{Types: types.Name, QEMU: types.QEMU}
			err := policy.SelfTest(kernel, policy.Of(types))
			if err == nil {
				t.Passed = true
				passed++
			} else {
				t.Problem = strings.ReplaceAll(err.Error(), "\n", "; ")
				// The kernel does not know the type: EINVAL.
				t.Absent = errors.Is(err, syscall.EINVAL)
			}
			list = append(list, t)
		}
	}
	return list, passed
}
