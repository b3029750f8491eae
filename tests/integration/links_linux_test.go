// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestHooksMeetLinks has hooks write below /proc/PID/root and the bundle's root file system by
// names that the image has as links, without care. Each link leads to a folder of the host: its
// file stays as it is, and no hook reads it. A hook that runs after the container has started
// reaches the container's files by their own names.
func TestHooksMeetLinks(t *testing.T) {
	if !isCloister() {
		t.Skip("a container's process has its own root directory, which the hook's does not contain")
	}
	b := newBed(t, host.Options{})
	victims := b.folder(t, "victims", nil)
	file, log := filepath.Join(victims, "file"), filepath.Join(b.Place.Dir, "links.log")
	if err := os.WriteFile(b.Place.Path(file), []byte("the host's\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"absolute": victims, "process": "/proc/1/root" + victims, "up": strings.Repeat("../", 20) + victims}
	hook := func(stage string) []map[string]any {
		script := fmt.Sprintf(`state=$(tr -d ' \n\t'); pid=$(echo "$state" | grep -o '"pid":[0-9]*' | cut -d: -f2)
bundle=$(echo "$state" | grep -o '"bundle":"[^"]*' | cut -d'"' -f4)
test -d /proc/$pid/root && test -d $bundle || exit 1
for root in /proc/$pid/root $bundle/rootfs; do
  for link in absolute process up; do
    cat $root/$link/file; echo %[1]s >$root/$link/file; echo %[1]s >$root/$link/made
  done
done >>%[2]s 2>/dev/null
echo %[1]s >/proc/$pid/root/tmp/by-a-hook
echo %[1]s >>%[2]s
exit 0`, stage, log)
		return []map[string]any{{
			"path": "/bin/sh", "args": []string{"sh", "-c", script}, "env": []string{"PATH=/usr/bin:/bin"}, "timeout": 20,
		}}
	}
	r := b.withSpec(t, "c", func(spec, _ map[string]any) {
		root := spec["root"].(map[string]any)["path"].(string)
		for name, to := range links {
			if err := os.Symlink(to, b.Place.Path(filepath.Join(root, name))); err != nil {
				t.Fatal(err)
			}
		}
		spec["hooks"] = map[string]any{"prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststart": hook("poststart")}
	}, "sh", "-c", "n=0; until [ -s /tmp/by-a-hook ] || [ $n = 600 ]; do sleep 0.1; n=$((n+1)); done\n"+
		"cat /tmp/by-a-hook; readlink absolute")
	if want := "poststart\n" + victims + "\n"; r.Stdout != want || r.Code != 0 {
		t.Errorf("the container = %+v, want %q", r, want)
	}
	if got, err := os.ReadFile(b.Place.Path(log)); string(got) != "prestart\ncreateRuntime\npoststart\n" {
		t.Errorf("the hooks ran and read %q, %v, want no file of the host", got, err)
	}
	entries, err := os.ReadDir(b.Place.Path(victims))
	got, readErr := os.ReadFile(b.Place.Path(file))
	if err != nil || readErr != nil || len(entries) != 1 || string(got) != "the host's\n" {
		t.Errorf("the host's folder has %v, its file %q; %v, %v", entries, got, err, readErr)
	}
}
