// SPDX-License-Identifier: Apache-2.0

// Command cloister-oci is the OCI command line: engines that start containers by a program, as
// Podman, CRI-O, Docker and BuildKit do, call it in the place of runc.
//
// Verbs, flags and error texts are runc's, since engines know runc's. Each verb is a call of the
// Task API to the daemon of the container's sandbox, which is the shim. For each process in a guest
// one proxy stays on the host, because engines wait for a pid.
//
// By the name cloister-oci-process it makes plain containers, whatever class the host's config has.
//
// It must not decide anything about a sandbox: what cannot be honoured is refused by the shim. Its
// types are options (the flags), dir and record (what is kept of a container), daemon (a
// connection) and proxy.
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
	"cloister/cmd/internal/stamp"
)

// defaultRoot is where containers are recorded when --root names no other folder. It is on a tmpfs:
// a container does not survive a reboot, so its record must not either.
const defaultRoot = "/run/cloister-oci"

// options are the flags that stand before the verb. One value is made by main and read by all
// verbs; no goroutine changes it.
type options struct {
	root, log, logFormat, config string
	systemdCgroup                bool // nothing depends on it: the form of linux.cgroupsPath tells
}

// exitError is the exit status of a container's process, and the command's own. Nothing is said of
// it. BuildKit and people that call run take it for the container's own.
type exitError int

// Error is for wrapping alone; report prints nothing for it.
func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// main runs a verb or, as a proxy, stands for a process. What comes before the verb is for both.
func main() {
	// The proxy's main thread enters the sandbox's network namespace: /proc/PID/ns/net is that
	// thread's.
	goruntime.LockOSThread()
	// buildah leaks its pipes to create. The daemon outlives create and must not hold them open.
	// Close-on-exec rather than closing: the proxy's control socket and terminal are among them.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "cloister-oci: inherited descriptors:", err)
		os.Exit(1)
	}
	o := &options{}
	root := newRoot(o)
	// Before cobra: the proxy is no verb for people, and must not pay for the parsing of flags.
	if len(os.Args) > 1 && os.Args[1] == proxyVerb {
		os.Exit(proxyMain(os.Args[2:]))
	}
	// Only so that a killed verb undoes what it made; the proxy handles signals itself.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := root.ExecuteContext(ctx)
	stop()
	os.Exit(o.report(os.Stderr, err))
}

// newRoot makes the command with all verbs. Flags that cannot matter are accepted, since an engine
// that sends one would otherwise not work at all.
func newRoot(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:   "cloister-oci",
		Short: "run OCI containers in guests of their own",
		Long: "The OCI command line of Cloister: engines call it as they call runc. Each container, or each pod,\n" +
			"runs in a guest of its own under one mandatory access control policy. By the name " + processName + "\n" +
			"it makes plain containers.",
		// TraverseChildren: engines put flags before the verb, and some verbs have flags of the
		// same name.
		SilenceErrors: true, SilenceUsage: true, TraverseChildren: true,
		Version: stamp.Version,
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
		// Otherwise a flag of the command in exec would be taken for one of this program.
		c.Flags().SetInterspersed(false) // what follows the id is the container's
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName { return pflag.NormalizedName(name) })
	return root
}

// report tells the engine of an error, in the log file and on w, and gives the exit status. The
// exit status is 1 for every error of this program, as runc's; a container's own status is passed
// on.
func (o *options) report(w io.Writer, err error) int {
	var program exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &program):
		return int(program)
	}
	fmt.Fprintln(w, "cloister-oci:", err)
	// The engine still has standard error; a log that cannot be written is a second line there.
	if lerr := o.logError(err); lerr != nil {
		fmt.Fprintln(w, "cloister-oci: --log:", lerr)
	}
	return 1
}

// logError writes the one line from which engines take the reason of a failure. conmon and
// containerd's shim read it after a failed call, and take 126 or 127 for exec from its text.
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
	// Append, and no truncation: engines give the same file to several calls.
	f, ferr := os.OpenFile(o.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if ferr != nil {
		return ferr
	}
	_, werr := f.Write(line)
	return errors.Join(werr, f.Close())
}
