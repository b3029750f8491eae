// SPDX-License-Identifier: Apache-2.0

// Command cloister is the command line: host tools and the OCI verbs, one file
// per verb.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// verb is one thing the command does. Its run parses its own arguments.
type verb struct {
	name, about string
	run         func(ctx context.Context, std stdio, args []string) error
}

// stdio is where a verb writes: results to out, all else to err.
type stdio struct{ out, err io.Writer }

// exitError is the exit status of a program which a verb ran, and the command's own. Nothing is said of it.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// errUsage makes the exit status 2. What was wrong has been said already.
var errUsage = errors.New("usage")

func verbs() []verb {
	return []verb{
		{"check", "is this host ready for sandboxes: each line with its remedy", runCheck},
		{"guest", "build a guest image, or show what is in one", runGuest},
		{"install", "tell containerd, Docker, nerdctl or Kubernetes of the runtime", runInstall},
		{"policy", "the SELinux policy module: install, remove, status, test, fcontext", runPolicy},
		{"ps", "list the sandboxes that run", runPs},
		{"inspect", "all that is known of a sandbox, as JSON", runInspect},
		{"logs", "print a guest's console", runLogs},
		{"debug", "a shell in a guest, outside of its containers, where the config allows it", runDebug},
		{"labels", "who holds which label on this host: processes, levels, files; clashes", runLabels},
		{"why", "explain what the policy denied a sandbox", runWhy},
		{"gc", "take back what dead shims have left", runGC},
		{"version", "what this program is made of", runVersion},
		{"help", "this list with examples, or more of one verb", runHelp},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, "cloister", verbs(), stdio{os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	var status exitError
	switch {
	case errors.As(err, &status):
		os.Exit(int(status))
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cloister:", err)
		os.Exit(1)
	}
}

// run finds the verb of the first argument among table and runs it with the
// rest.
func run(ctx context.Context, prefix string, table []verb, std stdio, args []string) error {
	if len(args) > 0 {
		for _, v := range table {
			if v.name == args[0] {
				return v.run(ctx, std, args[1:])
			}
		}
		if help := args[0]; help == "-h" || help == "--help" || help == "help" {
			usage(std.out, prefix, table)
			return nil
		}
		fmt.Fprintf(std.err, "%s: no verb %q\n", prefix, args[0])
	}
	usage(std.err, prefix, table)
	return errUsage
}

func usage(w io.Writer, prefix string, table []verb) {
	fmt.Fprintf(w, "Usage: %s VERB [ARGUMENTS]\n\nVerbs:\n", prefix)
	for _, v := range table {
		fmt.Fprintf(w, "  %-10s %s\n", v.name, v.about)
	}
}

// parse reads flags; their errors and help have been printed when it fails.
func parse(flags *flag.FlagSet, std stdio, args []string) error {
	flags.SetOutput(std.err)
	err := flags.Parse(args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return errUsage
	}
	return err
}
