// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     target
		wantErr  bool
	}{
		{name: "none"},
		{name: "path", in: "/run/containerd/fifo/1/c-stdout", want: target{kind: kindPath, path: "/run/containerd/fifo/1/c-stdout"}},
		{name: "path with a percent sign", in: "/run/a%20b?c", want: target{kind: kindPath, path: "/run/a%20b?c"}},
		{name: "fifo", in: "fifo:///run/c-stdout", want: target{kind: kindPath, path: "/run/c-stdout"}},
		{name: "file", in: "file:///var/log/c.log", want: target{kind: kindFile, path: "/var/log/c.log"}},
		{name: "file, escaped", in: "file:///var/log/a%20b.log", want: target{kind: kindFile, path: "/var/log/a b.log"}},
		{name: "file, not escaped", in: "file:///var/log/100%.log", want: target{kind: kindFile, path: "/var/log/100%.log"}},
		{name: "binary", in: "binary:///usr/bin/logger", want: target{kind: kindBinary, path: "/usr/bin/logger"}},
		{
			name: "nerdctl", in: "binary:///usr/local/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fnerdctl%2F1935db59",
			want: target{
				kind: kindBinary, path: "/usr/local/bin/nerdctl",
				args: []string{"_NERDCTL_INTERNAL_LOGGING", "/var/lib/nerdctl/1935db59"},
			},
		},
		{
			name: "binary-v2 with arguments in order", in: "binary-v2:///l?z=1&a=2&flag",
			want: target{kind: kindBinaryV2, path: "/l", args: []string{"z", "1", "a", "2", "flag", ""}},
		},
		{name: "relative path", in: "c-stdout", wantErr: true},
		{name: "relative binary", in: "binary://logger?x=y", wantErr: true},
		{name: "NUL", in: "/run/a\x00b", wantErr: true},
		{name: "NUL in an argument", in: "binary:///l?a=%00", wantErr: true},
		{name: "bad escape in an argument", in: "binary:///l?a=%zz", wantErr: true},
		{name: "CRI streaming", in: "ttrpc+unix:///run/containerd/s?stream_id=1", wantErr: true},
		{name: "windows", in: "npipe:////./pipe/x", wantErr: true},
		{name: "unknown", in: "ftp:///x", wantErr: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseTarget(tt.in)
			if (err != nil) != tt.wantErr || err != nil && !errdefs.IsInvalidArgument(err) {
				t.Fatalf("parseTarget(%q) = %v, want error %v", tt.in, err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(target{})); err == nil && diff != "" {
				t.Errorf("parseTarget(%q): -want +got\n%s", tt.in, diff)
			}
		})
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"", "/a", "fifo:///a", "file:///a%20b", "binary:///l?a=b&c",
		"binary-v2:///l?%2F=%00", "ttrpc+unix:///s?stream_id=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s)
		if err != nil || got.kind == kindNone {
			return
		}
		if !filepath.IsAbs(got.path) || strings.ContainsRune(got.path+strings.Join(got.args, ""), 0) {
			t.Errorf("parseTarget(%q) = %+v: not absolute, or with a NUL", s, got)
		}
	})
}
