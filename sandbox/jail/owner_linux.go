// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Ranks is how many identities sandboxes of a host can have: one for each pair of 1,024 categories,
// and one that all sandboxes share whose level is not a pair. It is 523,777.
const Ranks = 1024*1023/2 + 1

// Bounds of uid_base. systemd's UIDS-GIDS.md leaves the range from the default to 2147483647 to
// nobody; below 65536 are the host's own users.
const (
	defaultBase = 1879048192
	leastBase   = 65536
	mostBase    = 1<<31 - Ranks
)

func (c Config) uidBase() uint32 { return cmp.Or(c.UIDBase, defaultBase) }

// Owner is whom a process belongs to on the host. Its zero value is whoever starts it. An owner
// owns no file: disks, taps and logs come to it as descriptors.
type Owner struct {
	ID     uint32   // both uid and gid
	Groups []uint32 // supplementary groups
}

// Owner is that of the sandbox of a rank. With kvm its processes may open /dev/kvm. It is an error
// if the host has given some of the ids to others. The rank is the sandbox's category pair's, so
// two sandboxes never share one while both are held in the registry. With the part users off it is
// the starter, root.
func (c Config) Owner(rank int, kvm bool) (Owner, error) {
	if !c.Has(Users) {
		return Owner{}, nil
	}
	if rank < 0 || rank >= Ranks {
		return Owner{}, fmt.Errorf("user of a sandbox: rank %d: want 0 to %d", rank, Ranks-1)
	}
	// Asked at each start: a user with such an id may have been added since the host was set up.
	if err := c.CheckHost("/etc"); err != nil {
		return Owner{}, err
	}
	o := Owner{ID: c.uidBase() + uint32(rank)}
	if kvm {
		var st unix.Stat_t
		if err := unix.Stat("/dev/kvm", &st); err != nil {
			return Owner{}, fmt.Errorf("/dev/kvm: %w", err)
		}
		// A node that everybody may open (Fedora) needs no group; one that is root's alone is
		// refused by MayOpen.
		if st.Mode&0o006 != 0o006 && st.Mode&0o060 == 0o060 && st.Gid != 0 {
			o.Groups = []uint32{st.Gid}
		}
	}
	return o, nil
}

// CheckHost looks into passwd, group, subuid and subgid below etc for somebody who has one of the
// sandboxes' ids. A file that is not there names nobody. Users of directory services (LDAP) are not
// seen there; the range is one that systemd's conventions leave to nobody.
func (c Config) CheckHost(etc string) error {
	for _, name := range []string{"passwd", "group", "subuid", "subgid"} {
		path := filepath.Join(etc, name)
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if line, clash := clash(string(text), strings.HasPrefix(name, "sub"), uint64(c.uidBase())); clash {
			return fmt.Errorf("%s assigns ids that are kept for sandboxes: %q is in %d to %d: "+
				"set jail.uid_base to the first of %d free ids: %w",
				path, line, c.uidBase(), uint64(c.uidBase())+Ranks-1, Ranks, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// clash gives the first line that has an id of the range. A line is name:first:count where spans is
// set (subuid(5)), else name:password:id:... (passwd(5), group(5)). Lines that are neither are the
// host's own business. The bound of 32 bits keeps the sums from an overflow.
func clash(text string, spans bool, base uint64) (line string, found bool) {
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 3 {
			continue
		}
		first, count := fields[2], "1"
		if spans {
			first, count = fields[1], fields[2]
		}
		from, err := strconv.ParseUint(first, 10, 32)
		n, err2 := strconv.ParseUint(count, 10, 32)
		if err == nil && err2 == nil && n > 0 && from < base+Ranks && from+n > base {
			return strings.TrimSpace(line), true
		}
	}
	return "", false
}

// MayOpen asks the kernel whether the owner may use a file: mode is some of unix.R_OK, W_OK and
// X_OK. An Owner that is the starter may, as far as is known here. A start asks before anything has
// happened, so that a mode that is wrong is an error with a remedy instead of QEMU's own.
func (o Owner) MayOpen(path string, mode uint32) error {
	if o.ID == 0 {
		return nil
	}
	err := sys.OnThread(func() error {
		// x/sys changes this thread alone. The file system's capabilities go with the uid.
		groups := make([]int, len(o.Groups))
		for i, g := range o.Groups {
			groups[i] = int(g)
		}
		if err := unix.Setgroups(groups); err != nil {
			return fmt.Errorf("set groups: %w", err)
		}
		if err := errors.Join(unix.Setfsgid(int(o.ID)), unix.Setfsuid(int(o.ID))); err != nil {
			return fmt.Errorf("set fsuid: %w", err)
		}
		if now, err := unix.SetfsuidRetUid(-1); err != nil || now != int(o.ID) { // a refusal is no error
			return fmt.Errorf("fsuid is %d, %w", now, cmp.Or(err, error(unix.EPERM)))
		}
		// AT_EACCESS asks with the effective rights; the real ones are root's.
		return unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)
	})
	if err != nil {
		return fmt.Errorf("%s: not usable by uid %d, which QEMU runs as: %w: make it readable for all users "+
			"(chmod o+x its folders, chmod o+r the file), or name %q in jail.disable", path, o.ID, err, Users)
	}
	return nil
}
