// SPDX-License-Identifier: Apache-2.0

package virtiofsd

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Kind is one of the two file servers there are.
type Kind string

// The kinds. KindUnknown, the zero value, is asked of the binary.
const (
	KindUnknown Kind = ""
	KindC       Kind = "c"
	KindRust    Kind = "rust"
)

// xattrMap keeps the attributes by which a host protects files away from the guest, in both
// directions: labels, and what needs CAP_SYS_ADMIN anyway. File capabilities go through. The guest
// sees EOPNOTSUPP for the rest, as on a file system without such attributes.
const xattrMap = ":ok:all:security.capability:security.capability:" +
	":unsupported:all:security.:security.:" +
	":unsupported:all:trusted.:trusted.:" +
	":ok:all:::"

// fewFiles is the number of descriptors below which a folder is listed by name alone. Else each
// name that is listed takes one until the guest's kernel lets go of it, and a large folder takes
// all there are before it is asked to.
const fewFiles = 1 << 17

// kindOf tells the kind from the binary's --help: both have the same name.
func kindOf(help string) (Kind, error) {
	switch {
	case strings.Contains(help, "--shared-dir"):
		return KindRust, nil
	case strings.Contains(help, "-o source="):
		return KindC, nil
	default:
		return KindUnknown, fmt.Errorf("is neither the Rust nor the C virtiofsd: --help shows no --shared-dir and no -o source=: %w",
			errdefs.ErrNotImplemented)
	}
}

// args returns the server's arguments. socket is the descriptor of a listening socket, folder that
// of the folder to serve: no path of anyone's choosing gets between the options. openFiles bounds
// the inodes the guest may hold. The folder becomes the server's root before it serves, also where
// the caller makes it the root of the mount namespace later: the Rust server opens its root by name
// when the guest mounts it, and the name is of the folder then. Locks are not passed to the host in
// either server: the C one refuses to wait for one, the Rust one has none.
func args(kind Kind, socket, folder int, openFiles uint64) []string {
	// With a final dot, since the C server asks whether it is a link.
	source := fmt.Sprintf("/proc/self/fd/%d/.", folder)
	nofile := strconv.FormatUint(openFiles, 10)
	if kind == KindRust {
		out := []string{
			"--fd=" + strconv.Itoa(socket),
			"--shared-dir=" + source,
			"--sandbox=chroot",
			"--cache=auto",
			"--announce-submounts",
			"--inode-file-handles=never",
			"--killpriv-v2",
			"--xattr",
			"--xattrmap=" + xattrMap,
			"--rlimit-nofile=" + nofile,
		}
		if openFiles < fewFiles {
			out = append(out, "--no-readdirplus")
		}
		return out
	}
	out := []string{
		"-f",
		"--fd=" + strconv.Itoa(socket),
		"--rlimit-nofile=" + nofile,
		"-o", "source=" + source,
		"-o", "sandbox=chroot",
		"-o", "cache=auto",
		"-o", "announce_submounts",
		"-o", "no_flock,no_posix_lock",
		// Without it the guest asks for the file capabilities before each write.
		"-o", "killpriv_v2",
		"-o", "xattr,xattrmap=" + xattrMap,
	}
	if openFiles < fewFiles {
		out = append(out, "-o", "no_readdirplus")
	}
	return out
}
