// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
)

// Volumes counts which containers have which of the share's volumes. A volume stays mounted in the
// guest while a container has it: all that mount it then have one superblock, in which their
// sockets, locks and mappings meet.
type Volumes struct {
	mu   sync.Mutex
	uses map[string]map[ID]bool // by the volume's name
}

// NewVolumes counts no use yet.
func NewVolumes() *Volumes { return &Volumes{uses: map[string]map[ID]bool{}} }

// Add notes that a container has volumes, and has those mounted that no other container has. Drop
// follows, also after an error of mount. A name that is none is an error, and nothing is noted.
// Names come from the host; a name with a slash would lead out of the volumes' folder.
func (v *Volumes) Add(id ID, names []string, mount func(name string) error) error {
	for _, name := range names {
		if name == "." || name == ".." || filepath.Base(name) != name {
			return fmt.Errorf("volume %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	// The lock is held while mount runs: a second container must not go on before the mount is
	// there, and a Drop must not take it away in between.
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range names {
		if v.uses[name] == nil {
			if err := mount(name); err != nil {
				return err
			}
			v.uses[name] = map[ID]bool{}
		}
		v.uses[name][id] = true
	}
	return nil
}

// Drop ends a container's use of its volumes, and has those unmounted that no other container has.
// No container can begin to use one meanwhile. After an error of unmount the use goes on. Drop is
// idempotent: the undo of a half-made container and a remove both call it.
func (v *Volumes) Drop(id ID, unmount func(name string) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, users := range v.uses {
		if !users[id] {
			continue
		}
		if len(users) == 1 {
			if err := unmount(name); err != nil {
				return err
			}
			delete(v.uses, name)
		}
		delete(users, id)
	}
	return nil
}
