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
func (v *Volumes) Add(id ID, names []string, mount func(name string) error) error {
	for _, name := range names {
		if name == "." || name == ".." || filepath.Base(name) != name {
			return fmt.Errorf("volume %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
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
// No container can begin to use one meanwhile. After an error of unmount the use goes on.
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
