// SPDX-License-Identifier: Apache-2.0

// Command cloister-oci is the OCI command line: engines that start containers by a program, as
// Podman, CRI-O, Docker and BuildKit do, call it in the place of runc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	goruntime "runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"cloister/cmd/internal/config"
)

// defaultRoot is where containers are recorded when --root names no other folder.
const defaultRoot = "/run/cloister-oci"

// options are the flags that stand before the verb.
type options struct {
	root, log, logFormat, config string
	systemdCgroup                bool // nothing depends on it: the form of linux.cgroupsPath tells
}

// exitError is the exit status of a container's process, and the command's own. Nothing is said of
// it.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	// The proxy's main thread enters the sandbox's network namespace: /proc/PID/ns/net is that
	// thread's.
	goruntime.LockOSThread()
	// buildah leaks its pipes to create. The daemon outlives create and must not hold them open.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "cloister-oci: inherited descriptors:", err)
		os.Exit(1)
	}
	o := &options{}
	root := newRoot(o)
	if len(os.Args) > 1 && os.Args[1] == proxyVerb {
		os.Exit(proxyMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := root.ExecuteContext(ctx)
	stop()
	os.Exit(o.report(os.Stderr, err))
}

func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:   "cloister-oci",
		Short: "run OCI containers in guests of their own",
		Long: "The OCI command line of Cloister: engines call it as they call runc. Each container, or each pod,\n" +
			"runs in a guest of its own under one mandatory access control policy.",
		SilenceErrors: true, SilenceUsage: true, TraverseChildren: true,
		Version: config.Version,
	}
	root.SetVersionTemplate(fmt.Sprintf("cloister-oci version {{.Version}}\nspec: %s\n", specs.Version))
	root.CompletionOptions.DisableDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVar(&o.root, "root", defaultRoot, "`folder` that records the containers")
	f.StringVar(&o.log, "log", "", "`file` for errors, beside standard error")
	f.StringVar(&o.logFormat, "log-format", "text", "form of that file: `text or json`")
	f.StringVar(&o.config, "config", "", "`file` to read Cloister's settings from (default $"+config.Env+", else "+config.Path+")")
	f.BoolVar(&o.systemdCgroup, "systemd-cgroup", false, "linux.cgroupsPath is slice:prefix:name")
	f.Bool("debug", false, "accepted for engines")
	f.String("rootless", "auto", "accepted for engines; containers need root")
	f.String("criu", "", "accepted for engines; there is no checkpoint")
	for _, verb := range []func(*options) *cobra.Command{
		newCreate, newStart, newState, newKill, newDelete, newExec, newPs, newList, newPause, newResume, newUpdate,
		newEvents, newFeatures, newSpec, newRun,
	} {
		c := verb(o)
		c.Flags().SetInterspersed(false) // what follows the id is the container's
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName { return pflag.NormalizedName(name) })
	return root
}

// report tells the engine of an error, in the log file and on w, and gives the exit status.
func (o *options) report(w io.Writer, err error) int {
	var program exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &program):
		return int(program)
	}
	fmt.Fprintln(w, "cloister-oci:", err)
	if lerr := o.logError(err); lerr != nil {
		fmt.Fprintln(w, "cloister-oci: --log:", lerr)
	}
	return 1
}

// logError writes the one line from which engines take the reason of a failure.
func (o *options) logError(err error) error {
	if o.log == "" {
		return nil
	}
	line := fmt.Appendf(nil, "time=%q level=error msg=%q\n", time.Now().Format(time.RFC3339), err.Error())
	if o.logFormat == "json" {
		data, jerr := json.Marshal(struct {
			Level string    `json:"level"`
			Msg   string    `json:"msg"`
			Time  time.Time `json:"time"`
		}{"error", err.Error(), time.Now()})
		if jerr != nil {
			return jerr
		}
		line = append(data, '\n')
	}
	f, ferr := os.OpenFile(o.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if ferr != nil {
		return ferr
	}
	_, werr := f.Write(line)
	return errors.Join(werr, f.Close())
}
