// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"cloister/sys"
)

// The states of runtime-spec, and paused. The values are runc's, which engines compare as text.
const (
	statusCreating = "creating"
	statusCreated  = "created"
	statusRunning  = "running"
	statusPaused   = "paused"
	statusStopped  = "stopped"
)

// state is the answer of state and a line of list, as runc words it. Podman 4 and buildah read pid
// and status, the others the whole.
type state struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// status asks the daemon; a container whose daemon or guest is gone has stopped. It never starts a
// daemon and has no effect: engines call it often.
func (d dir) status(ctx context.Context) (string, error) {
	conn, err := d.connect(ctx)
	if errors.Is(err, errNoDaemon) {
		return d.without(), nil
	}
	if err != nil {
		return "", err
	}
	defer conn.close()
	resp, err := conn.State(ctx, &taskapi.StateRequest{ID: d.id()})
	reached("status: answered")
	// The guest is deleted or was never made; what the record says decides.
	if notFound(err) {
		return d.without(), nil
	}
	return word(resp.GetStatus()), plain(err)
}

// without is the status of a container that no daemon knows. A record without a proxy is of a
// create that is under way, or was killed.
func (d dir) without() string {
	if r, err := d.load(); err == nil && r.Proxy.PID == 0 {
		return statusCreating
	}
	return statusStopped
}

// word is the status in runtime-spec's words. What the daemon does not know counts as stopped, so
// that it can be deleted.
func word(s tasktypes.Status) string {
	switch s {
	case tasktypes.Status_CREATED:
		return statusCreated
	case tasktypes.Status_RUNNING:
		return statusRunning
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		return statusPaused
	default:
		return statusStopped
	}
}

// state is what the verbs state and list print of a container.
func (o *options) state(ctx context.Context, d dir, r *record) (state, error) {
	status, err := d.status(ctx)
	if status == statusStopped && r.Proxy.alive() {
		status = statusRunning // it has output to write yet, which engines look for when they see "stopped"
	}
	s := state{
		Version: specs.Version, ID: r.ID, Status: status, Bundle: r.Bundle, Rootfs: r.Rootfs,
		Created: r.Created, Annotations: r.Annotations, Owner: "root",
	}
	// A stopped container has no process; runc prints 0.
	if status != statusStopped {
		s.PID = r.Proxy.PID
	}
	return s, err
}

// newState is the verb state.
func newState(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "state ID", Short: "print the state of a container, as JSON", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, r, err := o.load(args[0])
			if err != nil {
				return err
			}
			s, err := o.state(c.Context(), d, r)
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), s)
		},
	}
}

// newList is the verb list. It asks the daemon of each container.
func newList(o *options) *cobra.Command {
	var format string
	var quiet bool
	c := &cobra.Command{
		Use: "list [--format table|json] [--quiet]", Aliases: []string{"ls"}, Short: "list the containers of this root", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := o.all()
			if err != nil {
				return err
			}
			states := []state{}
			for _, r := range all {
				d, err := o.container(r.ID)
				if err != nil {
					return err
				}
				s, err := o.state(c.Context(), d, r)
				if err != nil {
					return err
				}
				states = append(states, s)
			}
			return printStates(c.OutOrStdout(), states, format, quiet)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "table", "`table or json`")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "only ids")
	return c
}

// printStates writes ids, JSON or a table, with runc's columns.
func printStates(w io.Writer, states []state, format string, quiet bool) error {
	switch {
	case quiet:
		for _, s := range states {
			fmt.Fprintln(w, s.ID)
		}
		return nil
	case format == "json":
		return printJSON(w, states)
	case format != "table":
		return fmt.Errorf("--format %q: want table or json", format)
	}
	t := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, s := range states {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.PID, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return t.Flush()
}

// newPs is the verb ps. The processes in the guest have no pids on the host, and engines would
// signal what they find; so the proxy is the only one.
func newPs(o *options) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "ps [--format table|json] ID [PS-ARGUMENTS]", Args: cobra.MinimumNArgs(1),
		Short: "list the processes of a container that the host has: its proxy",
		RunE: func(c *cobra.Command, args []string) error {
			_, r, err := o.load(args[0])
			if err != nil {
				return err
			}
			pids := []int{}
			if r.Proxy.alive() {
				pids = append(pids, r.Proxy.PID)
			}
			reached("ps: found")
			switch format {
			case "json":
				return printJSON(c.OutOrStdout(), pids)
			case "table":
				return psTable(c.Context(), c.OutOrStdout(), pids, args[1:])
			}
			return fmt.Errorf("--format %q: want table or json", format)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "table", "`table or json`")
	return c
}

// psTable prints what ps says of some pids. It runs the host's ps with the caller's arguments and
// keeps the lines of those pids, as runc does.
func psTable(ctx context.Context, w io.Writer, pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	ps, err := sys.Program("ps")
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, ps, args...).Output()
	if err != nil {
		return fmt.Errorf("ps %s: %w", strings.Join(args, " "), err)
	}
	column := -1
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if column < 0 {
			if column = slices.Index(fields, "PID"); column < 0 {
				return fmt.Errorf("ps %s prints no PID", strings.Join(args, " "))
			}
			fmt.Fprint(w, line)
			continue
		}
		// A line may have fewer fields than the header: the last one is looked at then, and is no
		// pid.
		if pid, err := strconv.Atoi(fields[min(column, len(fields)-1)]); err == nil && slices.Contains(pids, pid) {
			fmt.Fprint(w, line)
		}
	}
	return nil
}

// printJSON writes a value, indented on standard output.
func printJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if w == os.Stdout {
		e.SetIndent("", "  ")
	}
	return e.Encode(value)
}
