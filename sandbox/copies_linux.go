// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// copied is a file of the engine's that a container has a copy of.
type copied struct {
	source string // on the host
	file   *guestv1.File
}

// copies are the files that a container was sent, and where they come from.
func copies(c Container, req *guestv1.PrepareContainerRequest) []copied {
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
		out = append(out, copied{source: source, file: f})
	}
	return out
}

// Refresh sends a container those of its copied files that the engine has changed
// since: Docker writes hosts and resolv.conf between Create and Start.
func (s *Sandbox) Refresh(ctx context.Context, id string) error {
	s.mu.Lock()
	r := s.containers[id]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	req := &guestv1.PrepareContainerRequest{Id: id}
	for _, c := range r.copied {
		data, err := readBounded(c.source)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, c.file.GetData()) {
			c.file.Data = data
			req.Files = append(req.Files, c.file)
		}
	}
	if len(req.GetFiles()) == 0 {
		return nil
	}
	_, err := s.guest.Guest().PrepareContainer(ctx, req)
	return s.Explain(err)
}
