// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// TestSnapshotters runs containers on each kind of root file system that containerd makes.
func TestSnapshotters(t *testing.T) {
	mkfs := testenv.NeedTool(t, "mkfs.ext4")
	testenv.NeedTool(t, "mkfs.erofs")
	scratch, scratchXFS := filepath.Join(t.TempDir(), "scratch.ext4"), filepath.Join(t.TempDir(), "scratch.xfs")
	for _, mkfs := range [][]string{
		{mkfs, "-q", "-O", "^has_journal", "-E", "root_owner=0:0", scratch, "32M"},
		{testenv.NeedTool(t, "mkfs.xfs"), "-q", "-d", "name=" + scratchXFS + ",file,size=300m"}, // its least
	} {
		if out, err := exec.CommandContext(t.Context(), mkfs[0], mkfs[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const blockfile = `
[plugins."io.containerd.snapshotter.v1.blockfile"]
scratch_file = %q
fs_type = %q
mount_options = []
recreate_scratch = true
`
	const erofs = `
[plugins."io.containerd.snapshotter.v1.erofs"]
default_size = %q
`
	tests := []struct{ name, snapshotter, config string }{
		{"overlayfs", "overlayfs", ""},
		{"native", "native", ""},
		{"blockfile", "blockfile", fmt.Sprintf(blockfile, scratch, "ext4")},
		{"blockfile-xfs", "blockfile", fmt.Sprintf(blockfile, scratchXFS, "xfs")},
		{"erofs", "erofs", ""},
		{"erofs-sized", "erofs", fmt.Sprintf(erofs, "64MiB")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, host.Options{Config: tt.config})
			b.Env = append(b.Env, "CONTAINERD_SNAPSHOTTER="+tt.snapshotter) // of ctr from here on
			b.Must(t, "images", "import", "--local", filepath.Join(b.Dir, "busybox.tar"))
			b.keep(t)
			if tt.name == "erofs" && isCloister() {
				// Its writable layer is a folder of the host: refused, with what to do.
				if r := b.run(t, "refused", nil, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "default_size") {
					t.Errorf("run = %+v, want an error that names default_size", r)
				}
				return
			}
			if tt.snapshotter == "erofs" && plain() {
				if r := b.run(t, "refused", nil, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "class process has no") {
					t.Errorf("run = %+v, want an error that says what class process has not", r)
				}
				return
			}
			b.want(t, "c", "4755 same kept", nil, "sh", "-c",
				"echo kept >/etc/new; echo $(stat -c %a /bin/busybox-suid) $(test /bin/ls -ef /bin/cat && echo same) $(cat /etc/new)")
			if r := b.run(t, "ro", []string{"--read-only"}, "touch", "/f"); r.Code == 0 ||
				!strings.Contains(r.Stderr, "Read-only file system") {
				t.Errorf("touch on a read-only root = %+v", r)
			}
			if isCloister() {
				requestsOfRoot(t, b, tt.snapshotter == "blockfile" || tt.snapshotter == "erofs")
			}
			dir := b.folder(t, "data", map[string]string{"f": "bound\n"})
			b.want(t, "bind", "bound", []string{"--mount", "type=bind,src=" + dir + ",dst=/data,options=rbind:ro"}, "cat", "/data/f")
			if _, err := os.Stat(scratch); err != nil {
				t.Error(err)
			}
		})
	}
}

// requestsOfRoot has a container make and read 100 files of its root file system, and counts the
// interrupts by which the file server answers: none for each file where the root is a disk.
func requestsOfRoot(t *testing.T, b *bed, disk bool) {
	t.Helper()
	const script = `for d in /sys/bus/virtio/devices/*; do [ "$(cat $d/device)" = 0x001a ] && share=${d##*/}; done
answers() { cat $(grep -l "^$share" /sys/kernel/irq/*/actions | sed s/actions/per_cpu_count/) | tr , '\n' |
	awk '{ n += $1 } END { print n + 0 }'; }
before=$(answers); mkdir /d; i=0
while [ $i -lt 100 ]; do echo small >/d/$i; read -r word </d/$i; i=$((i + 1)); done
echo $before $(answers) ${share:-none}`
	r := b.run(t, "requests", nil, "sh", "-c", script)
	var before, after int
	var share string
	if _, err := fmt.Sscan(r.Stdout, &before, &after, &share); err != nil || !strings.HasPrefix(share, "virtio") {
		t.Fatalf("interrupts of the share: %+v", r)
	}
	// A file on the share takes more than five answers, which may come two at a time.
	if n := after - before; before == 0 || disk != (n < 100) {
		t.Errorf("100 files of a root file system, on a disk: %t: %d interrupts of the file server", disk, n)
	}
}
