// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// kind is what an output goes to.
type kind int

const (
	kindNone     kind = iota
	kindPath          // a path: a FIFO, or another file that exists
	kindFile          // file://: made when absent, appended to
	kindBinary        // binary://: a logger that is ready when it says so or hangs up
	kindBinaryV2      // binary-v2://: a logger that is ready only when it says so
)

// target is a parsed stdout or stderr of a request.
type target struct {
	kind kind
	path string
	args []string // a logger's arguments
}

func (t target) isBinary() bool { return t.kind == kindBinary || t.kind == kindBinaryV2 }

// parseTarget reads what containerd's clients write into a request: nothing, a path, or a URI. What
// cannot be honoured is ErrInvalidArgument, with what to use instead.
func parseTarget(s string) (target, error) {
	if s == "" {
		return target{}, nil
	}
	scheme, rest, isURI := strings.Cut(s, "://")
	if !isURI {
		return absolute(target{kind: kindPath, path: s}, s)
	}
	switch scheme {
	case "fifo", "file":
		// What follows may hold any byte but NUL: it is not percent-encoded by those who write a
		// plain path after file://.
		u, err := url.Parse(s)
		if err == nil {
			rest = u.Path
		}
		k := kindFile
		if scheme == "fifo" {
			k = kindPath
		}
		return absolute(target{kind: k, path: rest}, s)
	case "binary", "binary-v2":
		return parseBinary(s, scheme)
	case "ttrpc", "grpc", "streaming", "ttrpc+unix", "grpc+unix", "ttrpc+vsock", "grpc+vsock", "ttrpc+hvsock", "grpc+hvsock":
		return target{}, fmt.Errorf("stdio %q: streaming is not offered, use FIFOs (containerd's CRI: io_type = \"fifo\"): %w",
			s, errdefs.ErrInvalidArgument)
	}
	return target{}, fmt.Errorf("stdio %q: scheme %q is unknown, want a path, fifo, file, binary or binary-v2: %w",
		s, scheme, errdefs.ErrInvalidArgument)
}

// absolute refuses a relative path, which would be taken from the shim's own folder.
func absolute(t target, s string) (target, error) {
	if !filepath.IsAbs(t.path) || strings.ContainsRune(t.path, 0) {
		return target{}, fmt.Errorf("stdio %q: want an absolute path: %w", s, errdefs.ErrInvalidArgument)
	}
	return t, nil
}

// parseBinary reads binary:///path?key=value&...: the query's keys and values are the logger's
// arguments, here in the order they are written in. url.Values would lose the order.
func parseBinary(s, scheme string) (target, error) {
	u, err := url.Parse(s)
	if err != nil {
		return target{}, fmt.Errorf("stdio: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	t := target{kind: kindBinary, path: u.Path}
	if scheme == "binary-v2" {
		t.kind = kindBinaryV2
	}
	if u.RawQuery == "" {
		return absolute(t, s)
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		key, value, _ := strings.Cut(pair, "=")
		for _, part := range []string{key, value} {
			arg, err := url.QueryUnescape(part)
			if err != nil || strings.ContainsRune(arg, 0) {
				return target{}, fmt.Errorf("stdio %q: argument %q is not valid: %w", s, part, errdefs.ErrInvalidArgument)
			}
			t.args = append(t.args, arg)
		}
	}
	return absolute(t, s)
}
