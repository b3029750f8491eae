// SPDX-License-Identifier: Apache-2.0

package template

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"
)

// ErrDamaged is wrapped by errors about a template that is not what its manifest says. Who meets it
// starts cold and notes a failure, so that the template is not tried for ever.
var ErrDamaged = errors.New("template is damaged")

// format is the version of manifest and files. Another one is refused: the template is built anew.
const format = 1

// Bounds of what is read.
const (
	maxManifest = 4 << 20
	maxExtents  = 1 << 16
	maxMACs     = 32
	pageBytes   = 4096
)

// Extent is a part of the memory that is not all zeroes. Offset and Bytes are multiples of the page
// size.
type Extent struct {
	Offset int64 `json:"offset"` // in the guest's memory
	Bytes  int64 `json:"bytes"`
}

// Blob is one file of a template.
type Blob struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Manifest says what a template is and what it was made with. The ID is written twice, as the
// folder's name and here, so that a folder that was renamed is found out.
type Manifest struct {
	Format      int       `json:"format"`
	ID          string    `json:"id"` // the key's
	Key         Key       `json:"key"`
	QEMUVersion string    `json:"qemuVersion"`
	Agent       string    `json:"agent"` // version
	Created     time.Time `json:"created"`
	MACs        []string  `json:"macs"`    // addresses of the NICs, as the guest's kernel knows them
	State       Blob      `json:"state"`   // of the devices
	Memory      Blob      `json:"memory"`  // the extents' bytes, one after the other
	Extents     []Extent  `json:"extents"` // ascending
}

// ParseManifest reads a manifest and checks all of it but the files. The folder is root's alone,
// and even so nothing in it is believed: extents decide where bytes are written in a guest's
// memory. Every error wraps ErrDamaged.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if len(data) > maxManifest {
		return m, fmt.Errorf("%w: a manifest of %d bytes: %w", ErrDamaged, len(data), errdefs.ErrInvalidArgument)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	// A manifest of a later version may say something that matters.
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w: %w", ErrDamaged, err, errdefs.ErrInvalidArgument)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, fmt.Errorf("%w: manifest: more than one value: %w", ErrDamaged, errdefs.ErrInvalidArgument)
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("%w: manifest: %w: %w", ErrDamaged, err, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// check compares the fields with each other, not with the files.
func (m Manifest) check() error {
	if m.Format != format {
		return fmt.Errorf("format %d, want %d", m.Format, format)
	}
	if want := m.Key.ID(); m.ID != want {
		return fmt.Errorf("id %.40q is not the key's, %s", m.ID, want)
	}
	if len(m.MACs) > maxMACs {
		return fmt.Errorf("%d NICs", len(m.MACs))
	}
	for _, mac := range m.MACs {
		if hw, err := net.ParseMAC(mac); err != nil || len(hw) != 6 {
			return fmt.Errorf("address %.40q", mac)
		}
	}
	for name, b := range map[string]Blob{StateName: m.State, MemoryName: m.Memory} {
		if sum, err := hex.DecodeString(b.SHA256); err != nil || len(sum) != 32 || b.Bytes <= 0 {
			return fmt.Errorf("%s: %d bytes with digest %.80q", name, b.Bytes, b.SHA256)
		}
	}
	return m.checkExtents()
}

// checkExtents holds the extents to the guest's memory and to the bytes there are. Ascending
// extents that do not overlap and whose sum is the file's size leave Fill nothing to check.
func (m Manifest) checkExtents() error {
	if len(m.Extents) > maxExtents {
		return fmt.Errorf("%d extents, want at most %d", len(m.Extents), maxExtents)
	}
	// 2^24 MiB keep the sums far from an overflow.
	if m.Key.MemoryMiB <= 0 || m.Key.MemoryMiB > 1<<24 {
		return fmt.Errorf("memory of %d MiB", m.Key.MemoryMiB)
	}
	whole := int64(m.Key.MemoryMiB) << 20
	var end, sum int64
	for i, e := range m.Extents {
		if e.Offset < end || e.Bytes <= 0 || e.Offset%pageBytes != 0 || e.Bytes%pageBytes != 0 || e.Offset > whole-e.Bytes {
			return fmt.Errorf("extent %d at %d with %d bytes: want whole pages, ascending, within %d", i, e.Offset, e.Bytes, whole)
		}
		end, sum = e.Offset+e.Bytes, sum+e.Bytes
	}
	if sum != m.Memory.Bytes {
		return fmt.Errorf("extents have %d bytes, the memory %d", sum, m.Memory.Bytes)
	}
	return nil
}
