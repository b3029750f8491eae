// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// attack is what a container makes of the devices of its guest. It prints a line for each kind of
// device: what came of the attempt. Its nodes are in /dev, a tmpfs.
const attack = `
cd /dev
node() { rm -f node; mknod node $1 $(echo $2 | tr : ' ') 2>why || { echo "no node"; return 1; }; }
reason() { grep -o 'not permitted\|busy\|No such device\|denied\|Invalid\|Bad address' why || cat why; }
disk() {
	node b $1 || return
	if head -c 33554432 node 2>why | tr '\000' '\n' | grep -q "written-by-the-$VICTIM"; then echo "the secret"; return; fi
	if [ -s why ]; then reason; else echo "nothing of another"; fi
}
for d in /sys/block/*/dev; do disk $(cat $d); done | sort -u | sed 's/^/disk: /'
for p in /sys/class/virtio-ports/*/dev; do
	node c $(cat $p) && if (: <>node) 2>why; then echo opened; else reason; fi
done | sort -u | sed 's/^/port: /'
for n in 1:1 1:2 1:4; do
	node c $n && if head -c 1 node 2>why >got && [ -s got ]; then echo read; else reason; fi
done | sort -u | sed 's/^/memory: /'
modprobe dummy 2>/dev/null && echo "module: loaded"
rm -f node why got
`

// TestContainerAgainstItsGuest has containers of one guest reach for the agent's port, the memory
// and the disk of another container. One of them is privileged: it shows that the disk's secret is
// there to be read.
func TestContainerAgainstItsGuest(t *testing.T) {
	if !isCloister() {
		t.Skip("the devices are a guest's")
	}
	mkfs := testenv.NeedTool(t, "mkfs.ext4")
	scratch := filepath.Join(t.TempDir(), "scratch.ext4")
	if out, err := exec.CommandContext(t.Context(), mkfs, "-q", "-O", "^has_journal", "-E", "root_owner=0:0", scratch, "32M").
		CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := newBed(t, host.Options{Config: fmt.Sprintf(`
[plugins."io.containerd.snapshotter.v1.blockfile"]
scratch_file = %q
fs_type = "ext4"
mount_options = []
recreate_scratch = true
`, scratch)})
	b.Env = append(b.Env, "CONTAINERD_SNAPSHOTTER=blockfile") // of ctr from here on
	b.Must(t, "images", "import", "--local", filepath.Join(b.Dir, "busybox.tar"))
	b.keep(t)
	group := map[string]string{"io.containerd.runc.v2.group": "victim"}
	b.Start(t, "victim", []string{"--annotation", "io.containerd.runc.v2.group=victim"}, "sh", "-c",
		"echo written-by-the-victim >/secret; sync; sleep 1000")
	all := []string{"CAP_CHOWN", "CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_SYS_MODULE", "CAP_DAC_OVERRIDE", "CAP_NET_ADMIN"}
	everything := []map[string]any{{"allow": true, "access": "rwm"}}
	nothing := []map[string]any{{"allow": false, "access": "rwm"}}
	const denied = "disk: not permitted\nport: not permitted\nmemory: not permitted\n"
	for _, tt := range []struct {
		name      string
		caps      []string
		resources any
		want      string
	}{
		{"default", nil, map[string]any{"devices": nothing}, denied},
		{"no-rules", nil, nil, denied},
		{"no-rules-all-capabilities", all, nil, denied},
		// Its guest is a privileged container's boundary: it may have the disks of its pod. The
		// agent's port has one holder, and the kernel has no /dev/mem.
		{"privileged", all, map[string]any{"devices": everything}, "disk: the secret\nport: busy\nmemory: No such device\n"},
	} {
		r := b.withSpec(t, tt.name, func(spec, process map[string]any) {
			spec["annotations"] = group
			spec["linux"].(map[string]any)["resources"] = tt.resources
			process["env"] = append(process["env"].([]string), "VICTIM=victim")
			if tt.caps != nil {
				process["capabilities"] = map[string]any{"bounding": tt.caps, "effective": tt.caps, "permitted": tt.caps}
			}
		}, "sh", "-c", attack)
		if r.Stdout != tt.want || r.Code != 0 {
			t.Errorf("%s: got %q, exit %d, want %q\n%s", tt.name, r.Stdout, r.Code, tt.want, r.Stderr)
		}
	}
	// No /dev of the guest takes the place of one that neither image nor configuration has.
	r := b.withSpec(t, "bare", func(spec, _ map[string]any) {
		spec["annotations"] = group
		root := spec["root"].(map[string]any)["path"].(string)
		b.Place.Run(t, "rm", "-rf", filepath.Join(root, "dev"))
		spec["mounts"] = slices.DeleteFunc(spec["mounts"].([]any), func(m any) bool {
			return strings.HasPrefix(m.(map[string]any)["destination"].(string), "/dev")
		})
	}, "sh", "-c", "ls /dev")
	if r.Code == 0 || r.Stdout != "" || !strings.Contains(r.Stderr, "/dev") {
		t.Errorf("an image without /dev = %+v, want it refused", r)
	}
}
