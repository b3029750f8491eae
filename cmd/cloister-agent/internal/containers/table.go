// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// maxID keeps names of files that are made of an id below NAME_MAX (255).
const maxID = 128

// ID names a container or an exec, and is fit for a file's name.
type ID string

// ParseID checks that s is what containerd and crun both take for an id:
// letters, digits and, but not first, any of "._-". The host is trusted, but the id becomes a
// folder's name here: without the check a wrong id would leave the agent's folder.
func ParseID(s string) (ID, error) {
	ok := s != "" && len(s) <= maxID && !strings.ContainsAny(s[:1], "._-")
	for _, c := range []byte(s) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-", c) >= 0)
	}
	if !ok {
		return "", fmt.Errorf("id %q: %w", s, errdefs.ErrInvalidArgument)
	}
	return ID(s), nil
}

// state is a container's; zero is an id that the table does not have. Two of the four exist to
// reserve: preparing and removing keep a second call away while the first works without the lock.
type state int

const (
	preparing state = iota + 1
	prepared
	tasked
	removing
)

// Table holds the state of each container. It is safe for concurrent use. The order of a container
// is Prepare, Prepared, Task, Untask, Remove, Forget.
type Table struct {
	dir string

	mu     sync.Mutex
	states map[ID]state
}

// NewTable is an empty table of containers below dir.
func NewTable(dir string) *Table { return &Table{dir: dir, states: map[ID]state{}} }

// Dir is the folder of a container, its bundle.
func (t *Table) Dir(id ID) string { return filepath.Join(t.dir, string(id)) }

// Prepare reserves an id. Exactly one of Prepared and Forget follows. An id that is known in any
// state is errdefs.ErrAlreadyExists.
func (t *Table) Prepare(id ID) error { return t.move(id, preparing, 0) }

// Prepared makes the container fit for a task.
func (t *Table) Prepared(id ID) { t.set(id, prepared) }

// Task marks that the container has a task; Untask follows when it has none. A container that is
// not prepared is errdefs.ErrNotFound, one that has a task already errdefs.ErrAlreadyExists.
func (t *Table) Task(id ID) error { return t.move(id, tasked, prepared) }

// Untask marks that the task was deleted, or never made. It is only for the holder of a successful
// Task.
func (t *Table) Untask(id ID) { t.set(id, prepared) }

// Check is an error when the container is not there, or comes or goes just now. It holds nothing:
// the answer may be out of date when it is used, which is fine for rewriting a file.
func (t *Table) Check(id ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.states[id]; now != prepared && now != tasked {
		return fmt.Errorf("container %s is not prepared: %w", id, errdefs.ErrNotFound)
	}
	return nil
}

// Remove says whether there is a container to remove, and reserves it. Forget
// follows. A container that is not known is no error: the host repeats a remove whose answer was
// lost.
func (t *Table) Remove(id ID) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, ok := t.states[id]
	if !ok {
		return false, nil
	}
	if now == prepared {
		t.states[id] = removing
		return true, nil
	}
	return false, fmt.Errorf("container %s has a task or is being prepared: %w", id, errdefs.ErrFailedPrecondition)
}

// Forget takes a container out of the table.
func (t *Table) Forget(id ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.states, id)
}

// IDs gives all containers. The order is random.
func (t *Table) IDs() []ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make([]ID, 0, len(t.states))
	for id := range t.states {
		ids = append(ids, id)
	}
	return ids
}

// set is for transitions whose caller has reserved the container, so no state can be wrong.
func (t *Table) set(id ID, s state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.states[id] = s
}

// move reserves. Comparing and setting in one critical section is what keeps two creates with one
// id apart.
func (t *Table) move(id ID, to, from state) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.states[id]
	if now == from {
		t.states[id] = to
		return nil
	}
	if now == 0 {
		return fmt.Errorf("container %s is not prepared: %w", id, errdefs.ErrNotFound)
	}
	return fmt.Errorf("container %s exists: %w", id, errdefs.ErrAlreadyExists)
}
