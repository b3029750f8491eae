// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	oldmetrics "github.com/containerd/cgroups/v3/cgroup1/stats"
	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/oci"
)

// resourcesType is the name under which the Task API knows runtime-spec's limits. The shim compares
// it by the text, as containerd's clients send it.
const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

// newPause is the verb pause. The guest freezes the container's cgroup; the machine goes on.
func newPause(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "pause ID", Short: "freeze the processes of a container", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.call(c.Context(), args[0], func(ctx context.Context, d *daemon) error {
				_, err := d.Pause(ctx, &taskapi.PauseRequest{ID: args[0]})
				return err
			})
		},
	}
}

// newResume is the verb resume.
func newResume(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "resume ID", Short: "thaw the processes of a container", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.call(c.Context(), args[0], func(ctx context.Context, d *daemon) error {
				_, err := d.Resume(ctx, &taskapi.ResumeRequest{ID: args[0]})
				return err
			})
		},
	}
}

// newUpdate is the verb update. Engines send a file; the flags are runc's, for people.
func newUpdate(o *options) *cobra.Command {
	var file, cpus, mems string
	numbers := map[string]*int64{}
	c := &cobra.Command{Use: "update [flags] ID", Short: "change the limits of a container", Args: cobra.ExactArgs(1)}
	s := c.Flags()
	s.StringVarP(&file, "resources", "r", "", "`file` with the limits, as JSON; - is standard input. Other flags are ignored then")
	for _, name := range []string{
		"blkio-weight", "cpu-period", "cpu-quota", "cpu-share", "cpu-rt-period", "cpu-rt-runtime", "memory", "memory-reservation",
		"memory-swap", "pids-limit",
	} {
		numbers[name] = s.Int64(name, 0, "as in linux.resources")
	}
	s.StringVar(&cpus, "cpuset-cpus", "", "CPUs to use")
	s.StringVar(&mems, "cpuset-mems", "", "memory nodes to use")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := readLimited(file)
		// A flag of value 0 is something else than one that was not given: 0 or -1 take a limit
		// away.
		if file == "" {
			given := map[string]*int64{}
			for name, n := range numbers {
				if s.Changed(name) {
					given[name] = n
				}
			}
			data, err = json.Marshal(limits(given, cpus, mems))
		}
		if err != nil {
			return err
		}
		return o.call(c.Context(), args[0], func(ctx context.Context, d *daemon) error {
			_, err := d.Update(ctx, &taskapi.UpdateTaskRequest{ID: args[0], Resources: &anypb.Any{TypeUrl: resourcesType, Value: data}})
			return err
		})
	}
	return c
}

// limits are the flags of update in runtime-spec's words; a flag that was not given is nil.
// Negative numbers become 0 where the specification has no sign.
func limits(n map[string]*int64, cpus, mems string) *specs.LinuxResources {
	positive := func(v *int64) *uint64 {
		if v == nil {
			return nil
		}
		u := uint64(max(0, *v))
		return &u
	}
	r := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{
			Shares: positive(n["cpu-share"]), Quota: n["cpu-quota"], Period: positive(n["cpu-period"]),
			RealtimePeriod: positive(n["cpu-rt-period"]), RealtimeRuntime: n["cpu-rt-runtime"], Cpus: cpus, Mems: mems,
		},
		Memory: &specs.LinuxMemory{Limit: n["memory"], Reservation: n["memory-reservation"], Swap: n["memory-swap"]},
	}
	if p := n["pids-limit"]; p != nil {
		r.Pids = &specs.LinuxPids{Limit: p}
	}
	if w := n["blkio-weight"]; w != nil {
		v := uint16(*w)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &v}
	}
	return r
}

// newEvents is the verb events: one line at once, and further ones until the container ends.
func newEvents(o *options) *cobra.Command {
	var once bool
	var interval time.Duration
	c := &cobra.Command{
		Use: "events [--stats] [--interval TIME] ID", Short: "print what a container uses, as lines of JSON", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return o.call(c.Context(), args[0], func(ctx context.Context, d *daemon) error {
				err := printStats(ctx, c.OutOrStdout(), d, args[0])
				if once || err != nil {
					return err
				}
				return follow(ctx, d, args[0], interval, func() error { return printStats(ctx, c.OutOrStdout(), d, args[0]) })
			})
		},
	}
	c.Flags().BoolVar(&once, "stats", false, "print once")
	c.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two lines")
	return c
}

// follow calls tell at each interval until the container has ended. An answer that the container is
// gone is no error: the wait ends in the next moment.
func follow(ctx context.Context, d *daemon, id string, interval time.Duration, tell func() error) error {
	if interval <= 0 {
		return fmt.Errorf("--interval %s: want more than 0", interval)
	}
	// Buffered: the goroutine must end also when this function has left first.
	ended := make(chan error, 1)
	go func() {
		_, err := d.Wait(ctx, &taskapi.WaitRequest{ID: id})
		ended <- err
	}()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	reached("events: following")
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
		}
		if err := tell(); err != nil && !notFound(err) {
			return err
		}
	}
}

// event is a line of events, in the form of runc's. It has a part of runc's fields.
type event struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Data eventData `json:"data"`
}

// eventData has runc's names and nesting.
type eventData struct {
	CPU struct {
		Usage struct {
			Total  uint64 `json:"total"` // nanoseconds, as the two below
			Kernel uint64 `json:"kernel"`
			User   uint64 `json:"user"`
		} `json:"usage"`
	} `json:"cpu"`
	Memory struct {
		Cache uint64 `json:"cache"`
		Usage usage  `json:"usage"`
		Swap  usage  `json:"swap"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current"`
		Limit   uint64 `json:"limit"`
	} `json:"pids"`
}

// usage is a pair of runc's; bytes.
type usage struct {
	Limit uint64 `json:"limit"`
	Usage uint64 `json:"usage"`
}

// printStats writes one line.
func printStats(ctx context.Context, w io.Writer, d *daemon, id string) error {
	resp, err := d.Stats(ctx, &taskapi.StatsRequest{ID: id})
	if err != nil {
		return err
	}
	e, err := statsEvent(id, resp.GetStats())
	if err != nil {
		return fmt.Errorf("stats of %s: %w", id, err)
	}
	return json.NewEncoder(w).Encode(e)
}

// statsEvent turns the daemon's numbers into runc's, which has CPU time in nanoseconds. Those of a
// guest are cgroup v2's, whatever the host has. Those of a plain container are of the host's kind.
func statsEvent(id string, stats *anypb.Any) (event, error) {
	message, err := stats.UnmarshalNew()
	if err != nil {
		return event{}, err
	}
	e := event{Type: "stats", ID: id}
	const microsecond = 1000
	switch m := message.(type) {
	case *metrics.Metrics:
		e.Data.CPU.Usage.Total = m.GetCPU().GetUsageUsec() * microsecond
		e.Data.CPU.Usage.Kernel = m.GetCPU().GetSystemUsec() * microsecond
		e.Data.CPU.Usage.User = m.GetCPU().GetUserUsec() * microsecond
		e.Data.Memory.Cache = m.GetMemory().GetFile()
		e.Data.Memory.Usage = usage{Limit: m.GetMemory().GetUsageLimit(), Usage: m.GetMemory().GetUsage()}
		e.Data.Memory.Swap = usage{Limit: m.GetMemory().GetSwapLimit(), Usage: m.GetMemory().GetSwapUsage()}
		e.Data.Pids.Current, e.Data.Pids.Limit = m.GetPids().GetCurrent(), m.GetPids().GetLimit()
	case *oldmetrics.Metrics:
		cpu, memory, swap := m.GetCPU().GetUsage(), m.GetMemory().GetUsage(), m.GetMemory().GetSwap()
		e.Data.CPU.Usage.Total, e.Data.CPU.Usage.Kernel, e.Data.CPU.Usage.User = cpu.GetTotal(), cpu.GetKernel(), cpu.GetUser()
		e.Data.Memory.Cache = m.GetMemory().GetCache()
		e.Data.Memory.Usage = usage{Limit: memory.GetLimit(), Usage: memory.GetUsage()}
		e.Data.Memory.Swap = usage{Limit: swap.GetLimit(), Usage: swap.GetUsage()}
		e.Data.Pids.Current, e.Data.Pids.Limit = m.GetPids().GetCurrent(), m.GetPids().GetLimit()
	default:
		return event{}, fmt.Errorf("%T: want those of cgroup v1 or v2", message)
	}
	return e, nil
}

// newFeatures is the verb features. An engine that gets an error does without.
func newFeatures(*options) *cobra.Command {
	return &cobra.Command{
		Use: "features", Short: "print what of a configuration is honoured, as JSON", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return printJSON(c.OutOrStdout(), oci.Features()) },
	}
}

// errSpecThere is config.json that spec would replace. A config.json may hold a user's work.
var errSpecThere = errors.New("config.json exists already: remove it first")
