// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"cloister/cmd/internal/stamp"
)

// main ends with 1 on an error: a DaemonSet restarts the program until it ends without an error.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cloister-node: "+err.Error())
		os.Exit(1)
	}
}

// run is the program with its arguments. The flags' defaults are the paths in the image and on most
// nodes.
func run(ctx context.Context, args []string, out io.Writer) error {
	n := node{out: out, shell: onHost, pause: 5 * time.Second}
	flags := flag.NewFlagSet("cloister-node", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintln(out, "usage: cloister-node [FLAG]... install | remove | wait\n"+
			"install puts cloister on the node whose process 1 is visible here, remove takes it off,\n"+
			"and wait does nothing until it is stopped.")
		flags.PrintDefaults()
	}
	flags.StringVar(&n.root, "root", "/proc/1/root", "`folder` that the node's root is at")
	flags.StringVar(&n.payload, "payload", "/payload", "`folder` of the programs and the guest image")
	flags.StringVar(&n.settings, "settings", "/settings", "`folder` of *.toml for the node's config")
	flags.StringVar(&n.engine, "containerd-config", "/etc/containerd/config.toml", "containerd's config `file` on the node")
	flags.StringVar(&n.restart, "restart", "systemctl restart containerd", "`command` that restarts containerd on the node")
	flags.StringVar(&n.socket, "socket", "/run/containerd/containerd.sock", "containerd's socket, `path` on the node")
	flags.StringVar(&n.name, "node", os.Getenv("NODE_NAME"), "the node's `name`")
	version := flags.Bool("version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version {
		fmt.Fprintln(out, "cloister-node version "+stamp.Version)
		return nil
	}
	// The container that stays has no rights: it only keeps the DaemonSet's pod there. It needs no
	// API server.
	verb := flags.Arg(0)
	if verb == "wait" {
		<-ctx.Done()
		return nil
	}
	labels, err := inCluster(n.name)
	if err != nil {
		return err
	}
	n.labels = labels
	switch {
	case verb == "install" && flags.NArg() == 1:
		return n.install(ctx)
	case verb == "remove" && flags.NArg() == 1:
		return n.remove(ctx)
	}
	flags.Usage()
	return fmt.Errorf("verb %q: want install, remove or wait", verb)
}
