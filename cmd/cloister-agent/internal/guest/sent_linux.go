// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"sync"

	"cloister/cmd/cloister-agent/internal/containers"
	guestv1 "cloister/sandbox/guestapi/v1"
)

// sentFiles are the files of containers as the host has sent them last: what differs from that is
// the container's own change. It is in the agent's memory and not in a file: containers may not
// change it. The files are small and three per container (hosts, hostname, resolv.conf).
type sentFiles struct {
	mu    sync.Mutex
	files map[containers.ID]map[string][]byte
}

// keep remembers the bytes after they were written; before that, a failed write would look like a
// change of the container's.
func (s *sentFiles) keep(id containers.ID, f *guestv1.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = map[containers.ID]map[string][]byte{}
	}
	if s.files[id] == nil {
		s.files[id] = map[string][]byte{}
	}
	s.files[id][f.GetPath()] = f.GetData()
}

// get is nil for a file that was never sent: then every line of the container's counts as its own.
func (s *sentFiles) get(id containers.ID, path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[id][path]
}

// forget goes with the container: its id may be used again by one with other files.
func (s *sentFiles) forget(id containers.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, id)
}
