// SPDX-License-Identifier: Apache-2.0

// Command cloister is the command line: host tools, one file per verb.
//
// The verbs look at the host and call what the shim calls; no decision about a sandbox is made
// here. Output is for people by default, and JSON, YAML or a template for programs. It must not
// print a guest's text to a terminal as it is.
//
// Its types: site is the host and its settings, command a verb with its flags, guestBox a sandbox
// as its record and /proc show it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	goruntime "runtime"
	"syscall"

	"github.com/spf13/cobra"

	"cloister/cmd/internal/config"
	"cloister/cmd/internal/stamp"
	"cloister/sandbox/clone"
)

// verb is one thing the command does. about is its line in a list of verbs. about also stands in
// man pages and completions.
type verb struct {
	name, about string
	command     func(std stdio) *cobra.Command
}

// stdio is where a verb writes: results to out, all else to err. Tests give buffers.
type stdio struct{ out, err io.Writer }

// Exit statuses. A program that debug ran gives its own. They are a contract with scripts, listed
// in docs/commands.md: a finding is told from a failure to look.
const (
	statusFailed  = 1 // it could not be done
	statusUsage   = 2 // the command line is wrong
	statusFinding = 3 // it was done, and what was asked about is not well
)

const statusText = `Exit status:
  0  success
  1  failure: the message says why
  2  the command line is wrong
  3  a problem was found: a line of check that says fail, a clash of labels, denials that look
     like an attack (why), an attack that succeeded (prove), no set of types that keeps sandboxes
     apart (policy test), a damaged template (template verify)
  debug ends with the status of the program that it ran`

// exitError is the exit status of a program which a verb ran, and the command's own. Nothing is
// said of it. debug has one: it runs a command in a guest.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// finding errors: errFinding makes the exit status 3, errUsage 2. Callers ask by errors.Is; the
// texts are never printed.
var (
	errFinding = errors.New("found what is not well")
	errUsage   = errors.New("usage")
)

// marked is an error with the mark errFinding or errUsage, of which nothing is said. The mark is
// found by errors.Is, and the message stays the error's own.
type marked struct{ error, mark error }

func (m marked) Unwrap() []error { return []error{m.error, m.mark} }
func (m marked) Error() string   { return m.error.Error() }

// notWell is the error of a verb that has found something.
func notWell(format string, args ...any) error {
	return marked{fmt.Errorf(format, args...), errFinding}
}

// verbs are in the order of help: what a new user needs first.
func verbs() []verb {
	return []verb{
		{"check", "check whether this host is ready for sandboxes, with a remedy for each problem", runCheck},
		{"guest", "build a guest image, or show what is in one", runGuest},
		{"install", "add the runtime to containerd, Docker, Podman, CRI-O or Kubernetes", runInstall},
		{"template", "manage saved guests to start from: build, list, verify, gc, disable, enable", runTemplate},
		{"policy", "manage the SELinux policy module: install, remove, status, test, fcontext", runPolicy},
		{"ps", "list the sandboxes that run", runPs},
		{"top", "show the resources that sandboxes use, live", runTop},
		{"events", "print state changes of sandboxes as they happen", runEvents},
		{"inspect", "print all that is known of a sandbox, as JSON", runInspect},
		{"logs", "print a guest's console", runLogs},
		{"debug", "run a shell in a guest, outside of its containers, where the config allows it", runDebug},
		{"labels", "show which label each process, level and file of this host has, and clashes", runLabels},
		{"prove", "attack this host from inside a sandbox, and say what stops each attack", runProve},
		{proveHere, "what prove runs", runProveHere},
		{"why", "explain what the host's policy denied to a sandbox", runWhy},
		{"metrics", "print counts and sizes of all sandboxes, for Prometheus", runMetrics},
		{"gc", "clean up after dead shims", runGC},
		{"version", "print the versions of this program's parts", runVersion},
		{"man", "write the manual pages into a folder", runMan},
	}
}

const examples = `  cloister check                             is this host ready, and if not, what to do
  cloister guest build --kernel=small        make the guest's kernel and initial image
  cloister install containerd --dry-run      what would change in containerd's config
  ctr run --rm --runtime io.containerd.cloister.v2 docker.io/library/alpine:latest one uname -r
  cloister ps                                what runs
  cloister logs -f one                       what the guest's console says
  cloister debug one ps                      what runs in the guest, where the config allows to look
  cloister why one                           what the policy denied it, and the command that helps`

// main has roles of its own before the verbs: the copier of a template, and the programs of prove.
// They get no config and must not parse flags.
func main() {
	if clone.IsCopier(os.Args) {
		os.Exit(clone.Copier())
	}
	if stands, err := standsFor(os.Args[1:]); stands {
		os.Exit(status(os.Stderr, err))
	}
	// Threads that enter a namespace must end; the main one never does.
	goruntime.LockOSThread()
	// The first signal ends a verb by its context; what it has changed is undone.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, stdio{os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	os.Exit(status(os.Stderr, err))
}

// status says what went wrong, and gives the exit status. It prints the error once. An error that a
// program's exit status stands for prints nothing.
func status(w io.Writer, err error) int {
	var program exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &program):
		return int(program)
	}
	fmt.Fprintln(w, "cloister:", err)
	switch {
	case errors.Is(err, errUsage):
		return statusUsage
	case errors.Is(err, errFinding):
		return statusFinding
	}
	return statusFailed
}

// run does what a command line says.
func run(ctx context.Context, std stdio, args []string) error {
	root := newRoot(std)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// newRoot is the command with all its verbs. It is made anew for each call, so that tests and man
// pages have one without flags of another.
func newRoot(std stdio) *cobra.Command {
	root := group(std, "cloister", verbs())
	root.Short = "run OCI workloads in guests of their own, and look after them"
	root.Long = "Host tools of Cloister, which runs every OCI workload in a guest of its own under one mandatory\n" +
		"access control policy. ID is a sandbox's id, the start of it, or NAMESPACE/ID.\n\n" + statusText
	root.Example = examples
	root.Version = stamp.Version
	// Errors are printed by status alone.
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.PersistentFlags().String("config", "", "`file` to read the settings from (default $"+config.Env+", else "+config.Path+")")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return wrongUsage(c, err) })
	return root
}

// group is a command that does nothing but lead to its verbs. Without a verb it is wrong usage,
// with a suggestion for a verb that is misspelt.
func group(std stdio, name string, table []verb) *cobra.Command {
	c := &cobra.Command{Use: name, Args: cobra.ArbitraryArgs, ValidArgsFunction: cobra.NoFileCompletions}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return wrongUsage(c, fmt.Errorf("%s needs a verb", c.CommandPath()))
		}
		err := fmt.Errorf("%s has no verb %q", c.CommandPath(), args[0])
		for _, name := range c.SuggestionsFor(args[0]) {
			err = fmt.Errorf("%w: did you mean %s?", err, name)
		}
		return wrongUsage(c, err)
	}
	for _, v := range table {
		sub := v.command(std)
		sub.Short = v.about
		c.AddCommand(sub)
	}
	return c
}

// wrongUsage adds to an error where help is.
func wrongUsage(c *cobra.Command, err error) error {
	return marked{fmt.Errorf("%w (%s --help)", err, c.CommandPath()), errUsage}
}
