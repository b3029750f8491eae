// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/oci"
	guestv1 "cloister/sandbox/guestapi/v1"
)

// copied is a file of the engine's that a container has a copy of.
type copied struct {
	source  string // on the host
	purpose oci.Purpose
	file    *guestv1.File // as the guest has it
}

// keepCopies lists the files that a container was sent, and has them follow the
// engine's.
func (s *Sandbox) keepCopies(ctx context.Context, c Container, req *guestv1.PrepareContainerRequest) ([]copied, error) {
	var out []copied
	for _, f := range req.GetFiles() {
		n, err := strconv.Atoi(filepath.Base(f.GetPath()))
		if err != nil || n >= len(c.Workload.Mounts) {
			continue
		}
		source := c.Workload.Mounts[n].Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(c.Bundle, source)
		}
		kept := copied{source: source, purpose: c.Workload.Mounts[n].Purpose, file: f}
		if err := errors.Join(s.watchFile(source), s.serveNames(ctx, kept)); err != nil {
			return nil, err
		}
		out = append(out, kept)
	}
	return out, nil
}

// Refresh sends a container those of its copied files that the engine has changed
// since: Docker writes hosts and resolv.conf between Create and Start, and again
// when a network comes or goes.
func (s *Sandbox) Refresh(ctx context.Context, id string) error {
	s.mu.Lock()
	r := s.containers[id]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	req := &guestv1.PrepareContainerRequest{Id: id}
	for _, c := range r.copied {
		data, err := readBounded(c.source)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the engine is taking the container away
		}
		if err != nil {
			return err
		}
		if bytes.Equal(data, c.file.GetData()) {
			continue
		}
		c.file.Data = data
		req.Files = append(req.Files, c.file)
		if err := s.serveNames(ctx, c); err != nil {
			return err
		}
	}
	if len(req.GetFiles()) == 0 {
		return nil
	}
	_, err := s.guest.Guest().PrepareContainer(ctx, req)
	return s.Explain(err)
}

// followFiles sends every container the files that the engine writes from here
// on. Without it they are as they were at the start, which most engines leave at
// that: a host that has no watch to give is no reason not to run.
func (s *Sandbox) followFiles(ctx context.Context) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		log.G(ctx).WithError(err).Warn("changes of the engine's files will not be seen: inotify: raise fs.inotify.max_user_instances")
		return
	}
	s.changes = os.NewFile(uintptr(fd), "inotify")
	s.undo.push("watch of files", func(context.Context) error { return s.changes.Close() })
	go s.refreshAll(context.WithoutCancel(ctx))
}

// refreshAll ends with the watch. What has changed is found by comparing.
func (s *Sandbox) refreshAll(ctx context.Context) {
	events := make([]byte, 4096)
	for {
		if _, err := s.changes.Read(events); err != nil {
			return
		}
		s.mu.Lock()
		ids := slices.Collect(maps.Keys(s.containers))
		s.mu.Unlock()
		for _, id := range ids {
			if err := s.Refresh(ctx, id); err != nil && !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).WithField("id", id).Warn("files of the engine")
			}
		}
	}
}

// watchFile has the file looked at whenever somebody has written and closed it.
func (s *Sandbox) watchFile(name string) error {
	if s.changes == nil {
		return nil
	}
	raw, err := s.changes.SyscallConn()
	if err != nil {
		return err
	}
	var added error
	err = raw.Control(func(fd uintptr) { _, added = unix.InotifyAddWatch(int(fd), name, unix.IN_CLOSE_WRITE) })
	if err := errors.Join(err, added); err != nil {
		return fmt.Errorf("watch %q: %w", name, err)
	}
	return nil
}
