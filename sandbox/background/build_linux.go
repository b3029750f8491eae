// SPDX-License-Identifier: Apache-2.0

package background

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sandbox"
	"cloister/sandbox/template"
)

// shares is a tenth of a sandbox's CPU weight. With the least that a cgroup can have, a build would
// not end on a host that is always busy.
const shares = 102

// calm is how long a builder waits first: the sandbox that has asked is still starting, and with it
// others may be.
const calm = 3 * time.Second

// Build is the whole of a builder; it returns the exit status. load reads the config at a path,
// empty for the host's own.
func Build(args []string, load func(path string) (sandbox.Config, error)) int {
	// Who asked reads what is printed, and may have ended.
	signal.Ignore(unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	m, err := build(ctx, args, load)
	switch {
	case err == nil:
		fmt.Fprintf(os.Stdout, "%s: %d CPUs, %d MiB\n", m.ID, m.Key.CPUs, m.Key.MemoryMiB)
	case !fault(err): // the next cold start asks again
		fmt.Fprintln(os.Stdout, err)
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fault says that a build has failed by itself. The sandbox that asked has just started with as
// much memory: a builder that the host has no memory or disk for may do better later.
func fault(err error) bool {
	for _, reason := range []error{template.ErrThere, template.ErrBusy, template.ErrDisabled, template.ErrSetAside, unix.ENOSPC} {
		if errors.Is(err, reason) {
			return false
		}
	}
	return err != nil && !errdefs.IsResourceExhausted(err)
}

func build(ctx context.Context, args []string, load func(string) (sandbox.Config, error)) (m template.Manifest, err error) {
	req, path, err := parse(args)
	if err != nil {
		return m, err
	}
	// Its mounts go with it; those of the host still arrive.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return m, fmt.Errorf("keep mounts from the host: %w", err)
	}
	// The kernel takes it before anything of a tenant.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return m, err
	}
	cfg, err := load(path)
	if err != nil {
		return m, err
	}
	store := cfg.Templates()
	lock, err := store.Builder()
	if err != nil {
		return m, err
	}
	defer lock.Close() // ends the lock
	select {
	case <-time.After(calm):
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
	if err := room(lock, req.LimitMiB); err != nil {
		return m, err
	}
	m, err = sandbox.BuildTemplate(ctx, cfg, req)
	// The second time none is built any more. A builder that is told to end has not failed.
	if fault(err) && m.ID != "" && ctx.Err() == nil {
		err = errors.Join(err, store.Fail(m.ID, err.Error()))
	}
	return m, err
}

// parse reads a builder's arguments, as ask writes them.
func parse(args []string) (sandbox.TemplateRequest, string, error) {
	if len(args) != 5 {
		return sandbox.TemplateRequest{}, "", fmt.Errorf("%s is called by shims alone: use cloister template build", BuilderName)
	}
	limit, limitErr := strconv.Atoi(args[1])
	cpus, cpusErr := strconv.Atoi(args[2])
	size := template.Size{LimitMiB: limit, CPUs: cpus, Machine: args[3]}
	return sandbox.TemplateRequest{Size: size, Shares: shares, Missing: true}, args[4], errors.Join(limitErr, cpusErr)
}

// besides is what QEMU and the guest's kernel take beside the containers' memory, in MiB, rounded
// up generously.
const besides = 512

// room is an error where the host has no memory or disk to spare for a guest of that size. folder
// is the store's.
func room(folder *os.File, limitMiB int) error {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return err
	}
	defer f.Close()               // read only
	memory := map[string]uint64{} // KiB
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 {
			memory[strings.TrimSuffix(fields[0], ":")], _ = strconv.ParseUint(fields[1], 10, 64) // all of them are numbers
		}
	}
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(folder.Fd()), &disk); err != nil {
		return fmt.Errorf("%s: %w", filepath.Clean(folder.Name()), err)
	}
	need := uint64(limitMiB + besides)
	return errors.Join(
		enough("memory of the host", memory["MemAvailable"]>>10, memory["MemTotal"]>>10, need),
		// A template is much smaller than its guest, and the store bounds what all take.
		enough("disk of "+folder.Name(), disk.Bavail*uint64(disk.Bsize)>>20, 0, 2*need),
	)
}

// enough is an error where less than a twentieth of the whole would be free beside need. All are in
// MiB.
func enough(what string, free, whole, need uint64) error {
	if want := need + whole/20; free < want {
		return fmt.Errorf("%s: %d MiB are free, want %d to build a template: %w", what, free, want, errdefs.ErrResourceExhausted)
	}
	return nil
}
