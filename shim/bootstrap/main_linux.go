// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// dismissTimeout bounds the wait for a daemon that is asked to leave, within containerd's 5 seconds
// for delete.
const dismissTimeout = time.Second

// Main does what the process was called for and returns its exit status. It uses os.Args, the
// environment, stdin, stdout and stderr. An error is one line on stderr: containerd shows it to the
// user.
func Main(ctx context.Context, cfg Config) int {
	a, err := parseArguments(os.Args[1:])
	if err == nil {
		err = run(ctx, cfg, a)
	}
	if err == nil {
		return 0
	}
	var out io.Writer = os.Stderr
	if a.action == actionServe {
		out = &logPipe{} // never blocks: containerd may be away
	}
	_, _ = fmt.Fprintf(out, "%s: %v\n", cfg.Name, err)
	return 1
}

// run sorts the invocations. -v and -info need neither id nor namespace.
func run(ctx context.Context, cfg Config, a arguments) error {
	switch {
	case a.version:
		return cfg.printVersion()
	case a.info:
		return cfg.printInfo(ctx)
	}
	if err := a.request.complete(); err != nil {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, a.request.Namespace)
	ctx = log.WithLogger(ctx, log.G(ctx).WithFields(log.Fields{"runtime": cfg.Name, "id": a.request.ID, "namespace": a.request.Namespace}))
	if a.request.Debug {
		if err := log.SetLevel(log.DebugLevel.String()); err != nil {
			return err
		}
	}
	switch a.action {
	case actionStart:
		return cfg.start(ctx, a.request)
	case actionDelete:
		return cfg.delete(ctx, a.request)
	default:
		return cfg.serve(ctx, a)
	}
}

// complete fills in what comes from the environment and the working folder.
func (r *Request) complete() error {
	if r.Bundle == "" {
		r.Bundle = "."
	}
	bundle, err := filepath.Abs(r.Bundle)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	r.Bundle = bundle
	r.TTRPCAddress = os.Getenv("TTRPC_ADDRESS")
	return nil
}

// printVersion prints what runc's shim prints, in its form.
func (cfg Config) printVersion() error {
	_, err := fmt.Fprintf(os.Stdout, "%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n",
		filepath.Base(os.Args[0]), cfg.Version, cfg.Revision, runtime.Version())
	return err
}

// printInfo answers -info: containerd sends the runtime's options on stdin and reads a RuntimeInfo.
func (cfg Config) printInfo(ctx context.Context) error {
	input, err := readInput(os.Stdin)
	if err != nil {
		return err
	}
	options, err := parseOptions(input)
	if err != nil {
		return err
	}
	info := &types.RuntimeInfo{
		Name:    cfg.Name,
		Version: &types.RuntimeVersion{Version: cfg.Version, Revision: cfg.Revision},
		Options: options,
	}
	if allowed := allowedMounts(cfg.Mounts); allowed != "" {
		info.Annotations = map[string]string{"containerd.io/runtime-allow-mounts": allowed}
	}
	if cfg.Info != nil {
		if err := cfg.Info(ctx, options, info); err != nil {
			return err
		}
	}
	return printMessage(info)
}

// allowedMounts is how mount capabilities were advertised before BootstrapResult had a place for
// them: containerd 2.2 reads it.
func allowedMounts(mounts *types.MountCapabilities) string {
	allowed := slices.Clone(mounts.GetTypes())
	for _, transform := range mounts.GetTransforms() {
		allowed = append(allowed, transform+"/*")
	}
	return strings.Join(allowed, ",")
}

// delete cleans up and answers how the task ended. containerd calls it when it has lost the daemon,
// and after a failed start; the answer becomes the task's exit. The socket goes last, since until
// then a daemon that lives can still be asked to leave.
func (cfg Config) delete(ctx context.Context, r Request) error {
	exit, err := cfg.Delete(ctx, r)
	if err != nil {
		return err
	}
	// A daemon that was killed could not take its socket away; one whose containerd was killed
	// waits for tasks that nobody will ask for.
	if address, err := os.ReadFile(filepath.Join(r.Bundle, addressFile)); err == nil {
		path := strings.TrimPrefix(strings.TrimSpace(string(address)), unixScheme)
		dismiss(ctx, path, r.ID)
		if err := removeStale(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.G(ctx).WithError(err).Warn("remove the dead daemon's socket")
		}
	}
	return printMessage(&taskapi.DeleteResponse{
		Pid:        exit.Pid,
		ExitStatus: exit.Status,
		ExitedAt:   timestamppb.New(exit.At),
	})
}

// dismiss has the daemon leave if it is alive and has neither tasks nor a sandbox, as containerd's
// own Shutdown after each task does. A daemon that serves other tasks stays. It is asked in the
// only way that cannot end a workload.
func dismiss(ctx context.Context, path, id string) {
	ctx, cancel := context.WithTimeout(ctx, dismissTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return // it has gone
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	if _, err := taskapi.NewTTRPCTaskClient(client).Shutdown(ctx, &taskapi.ShutdownRequest{ID: id}); err != nil {
		log.G(ctx).WithError(err).Debug("ask the daemon to leave")
	}
}

// printMessage writes a message to stdout, where nothing else may be written.
func printMessage(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}
