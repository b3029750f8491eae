// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// trap is a folder whose links lead out of it.
func trap(t *testing.T) (inside *os.File, outside string) {
	t.Helper()
	outside = t.TempDir()
	dir := t.TempDir()
	for link, target := range map[string]string{"abs": outside, "up": "../../../../../../.." + outside, "etc": "/etc", "self": "self"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root, outside
}

func TestTargetsStayInside(t *testing.T) {
	root, outside := trap(t)
	for _, rel := range []string{"abs/x", "up/x", "etc/x", "a/b/c", "abs", "./a/../d"} {
		for _, open := range []func(*os.File, string) (*os.File, error){
			func(r *os.File, p string) (*os.File, error) { return folderIn(r, p+"-dir/y", folderMode) }, fileIn,
		} {
			f, err := open(root, rel)
			if err != nil {
				continue // a link to nowhere inside is no harm
			}
			path, err := os.Readlink(fdPath(f))
			if err != nil || !strings.HasPrefix(path, root.Name()+"/") {
				t.Errorf("%s opens %s, %v", rel, path, err)
			}
			_ = f.Close()
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside has %v, %v", left, err)
	}
}

func TestPathsRefused(t *testing.T) {
	root, _ := trap(t)
	for rel, want := range map[string]error{
		"": errdefs.ErrInvalidArgument, "/etc": errdefs.ErrInvalidArgument, "..": errdefs.ErrInvalidArgument,
		"a/../../b": errdefs.ErrInvalidArgument,
		"a\x00b":    errdefs.ErrInvalidArgument, "self/x": unix.ELOOP,
	} {
		if _, err := folderIn(root, rel, folderMode); !errors.Is(err, want) {
			t.Errorf("folderIn(%q) = %v, want %v", rel, err, want)
		}
		if _, err := fileIn(root, rel); !errors.Is(err, want) {
			t.Errorf("fileIn(%q) = %v, want %v", rel, err, want)
		}
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	if err := WriteFile(dir, "files/hosts", []byte("127.0.0.1"), 0o644, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "files/hosts"))
	if string(got) != "127.0.0.1" || err != nil {
		t.Errorf("file has %q, %v", got, err)
	}
	if err := WriteFile(dir, "files/hosts", nil, 0o644, os.Getuid(), os.Getgid()); !errors.Is(err, os.ErrExist) {
		t.Errorf("second WriteFile = %v, want %v", err, os.ErrExist)
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a/b", "../a", "/a", "a/../..", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := clean(in)
		if err == nil && !filepath.IsLocal(got) {
			t.Errorf("clean(%q) = %q", in, got)
		}
	})
}

func TestParseOptions(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []string
		want parsed
	}{
		{name: "none"},
		{name: "bind", in: []string{"rbind", "ro", "rslave"}, want: parsed{
			recursive: true, mount: unix.MS_RDONLY, attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, propagates: unix.MS_SLAVE,
		}},
		{name: "last wins", in: []string{"ro", "rw"}, want: parsed{attr: unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}}},
		{name: "data", in: []string{"size=1m", "nosuid", "mode=1777"}, want: parsed{
			mount: unix.MS_NOSUID, attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}, data: []string{"size=1m", "mode=1777"},
		}},
		{name: "times", in: []string{"noatime"}, want: parsed{
			mount: unix.MS_NOATIME, attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME},
		}},
	} {
		if diff := cmp.Diff(tt.want, parseOptions(tt.in), cmp.AllowUnexported(parsed{})); diff != "" {
			t.Errorf("parseOptions(%q): %s", tt.in, diff)
		}
	}
}

func TestOverlayOptions(t *testing.T) {
	for in, ok := range map[string]bool{
		"lowerdir=l/0:l/1": true, "upperdir=disk/upper": true, "index=off": true, "metacopy": true,
		"lowerdir=/etc": false, "lowerdir=l/0:/": false, "upperdir=../x": false, "workdir=": false,
	} {
		if _, err := overlayOptions([]string{in}); (err == nil) != ok {
			t.Errorf("overlayOptions(%q) = %v, want allowed: %t", in, err, ok)
		}
	}
}
