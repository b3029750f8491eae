// SPDX-License-Identifier: Apache-2.0

package template

import (
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// maxDigests bounds what is kept of digests: two for each template and one for QEMU, and some that
// are outdated. The oldest go first. One that is lost costs reading that file once more.
const maxDigests = 4 * maxTemplates

// seen tells that a file is still the same one. The kernel changes its ctime with every write, and
// nobody can set it. Size and mtime alone would not do: whoever has written to a file can set both
// back.
type seen struct {
	Dev    uint64 `json:"dev"`
	Inode  uint64 `json:"inode"`
	Bytes  int64  `json:"bytes"`
	MTime  int64  `json:"mtime"` // nanoseconds
	CTime  int64  `json:"ctime"`
	SHA256 string `json:"sha256"`
}

// Digest is the SHA-256 of a file. It is read only when the store has not seen it since its last
// change; a cache that cannot be written costs that each time and is no error. Reading memory and
// QEMU whole at each start (about 80 MiB) would cost more than a template saves.
func (s Store) Digest(f *os.File) (string, error) {
	now, err := look(f)
	if err != nil {
		return "", err
	}
	known := s.readDigests()
	for _, k := range known {
		if sum := k.SHA256; sum != "" {
			if k.SHA256 = ""; k == now {
				return sum, nil
			}
		}
	}
	if now.SHA256, err = digest(f); err != nil {
		return "", err
	}
	// What was read is what was looked at before: a change meanwhile makes the next look differ.
	_ = s.writeDigests(append(known, now))
	return now.SHA256, nil
}

// look is what the kernel says of an open file; SHA256 stays empty.
func look(f *os.File) (seen, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return seen{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return seen{Dev: st.Dev, Inode: st.Ino, Bytes: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}, nil
}

// readDigests gives none where the file is missing or damaged: it is a cache in a folder of root's.
func (s Store) readDigests() (all []seen) {
	data, err := readBounded(s.path(digestsName), 64<<10)
	if err != nil || json.Unmarshal(data, &all) != nil {
		return nil
	}
	return all
}

// writeDigests replaces the file at once: others read it meanwhile. Two writers at once lose one's
// entries, which are made again.
func (s Store) writeDigests(all []seen) error {
	data, err := json.Marshal(all[max(0, len(all)-maxDigests):])
	if err != nil {
		return err
	}
	if err := s.make(); err != nil { // the first build asks for QEMU's before there is a template
		return err
	}
	f, err := os.CreateTemp(s.dir, digestsName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path(digestsName))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}
