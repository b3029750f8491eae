// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/pkg/identifiers"
)

// The actions of a shim. serve is ours: start runs it for the daemon.
const (
	actionStart  = "start"
	actionDelete = "delete"
	actionServe  = "serve"
)

// arguments are containerd's arguments, and those that start gives to the daemon.
type arguments struct {
	request Request
	action  string
	version bool
	info    bool

	socket string // serve: address of the inherited socket
	group  string // serve: what the socket's address was made of
}

// parseArguments reads argv without the program's name. Ids are checked here and nowhere else: they
// become names of files and of cgroups. Flags that containerd knows and this shim does not need are
// accepted.
func parseArguments(argv []string) (arguments, error) {
	var a arguments
	fs := flag.NewFlagSet("shim", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&a.version, "v", false, "")
	fs.BoolVar(&a.version, "version", false, "")
	fs.BoolVar(&a.info, "info", false, "")
	fs.BoolVar(&a.request.Debug, "debug", false, "")
	fs.StringVar(&a.request.Namespace, "namespace", "", "")
	fs.StringVar(&a.request.ID, "id", "", "")
	fs.StringVar(&a.request.Bundle, "bundle", "", "")
	fs.StringVar(&a.request.GRPCAddress, "address", "", "")
	fs.StringVar(&a.request.ContainerdBinary, "publish-binary", "", "")
	fs.StringVar(&a.socket, "socket", "", "")
	fs.StringVar(&a.group, "group", "", "")
	fs.String("debug-socket", "", "")
	if err := fs.Parse(argv); err != nil {
		return a, err
	}
	a.action = fs.Arg(0)
	if a.version || a.info {
		return a, nil
	}
	return a, a.check()
}

// check refuses ids that containerd would not make, and actions that do not exist.
func (a *arguments) check() error {
	if err := identifiers.Validate(a.request.Namespace); err != nil {
		return fmt.Errorf("-namespace: %w", err)
	}
	if err := identifiers.Validate(a.request.ID); err != nil {
		return fmt.Errorf("-id: %w", err)
	}
	switch a.action {
	case actionStart, actionDelete:
	case actionServe:
		if a.socket == "" {
			return errors.New("serve: want -socket: use start, which runs serve")
		}
	default:
		return fmt.Errorf("action %q: want start or delete", a.action)
	}
	return nil
}
