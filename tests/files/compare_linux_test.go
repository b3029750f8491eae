// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// manyEnv asks for a folder of that many names instead of CI's.
const manyEnv = "CLOISTER_FILES_ENTRIES"

// results are what the probe said, by place and case.
type results map[string]map[string]string

// TestFiles runs the probe under runc and under cloister on the same kinds of place, and compares.
func TestFiles(t *testing.T) {
	mkfs := testenv.NeedTool(t, "mkfs.ext4")
	testenv.NeedTool(t, "mkfs.btrfs")
	scratch := filepath.Join(t.TempDir(), "scratch.ext4")
	if out, err := exec.CommandContext(t.Context(), mkfs, "-q", "-O", "^has_journal", "-E", "root_owner=0:0",
		scratch, "96M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g := newGround(t, host.Options{Config: fmt.Sprintf(`
[plugins."io.containerd.snapshotter.v1.blockfile"]
scratch_file = %q
fs_type = "ext4"
mount_options = []
recreate_scratch = true
`, scratch)}, "blockfile")
	runc, cloister := g.look(t, "runc", bed.Runc), g.look(t, "cloister", bed.Cloister)
	compare(t, runc, cloister)
}

// look runs the probe on every kind of place under one runtime.
func (g ground) look(t *testing.T, name, runtime string) results {
	t.Helper()
	outer, inner, small, limited := g.folder(t, name+"/outer", "nested-here"), g.folder(t, name+"/inner"),
		g.smallDisk(t, name), g.quota(t, name)
	common := []string{"--user=0", "--cap-add=CAP_SYS_ADMIN"} // trusted.* attributes
	g.start(t, name, runtime, append(common,
		bind(outer, "/bind", "rbind:rw"), bind(inner, "/bind/nested", "rbind:rw"),
		bind(small, "/full", "rbind:rw"), bind(limited, "/quota", "rbind:rw"),
		"--mount=type=tmpfs,src=tmpfs,dst=/tmpfs,options=rw:nosuid:nodev:size=128m")...)
	g.start(t, name+"-disk", runtime, append(common, "--snapshotter=blockfile")...)
	many := os.Getenv(manyEnv)
	if many == "" {
		many = "5000"
	}
	found := results{}
	for _, p := range []struct{ place, container, args string }{
		{
			"root", name,
			"/home/probe open. mkdir. name. rename. link. symlink. suid. sgid. groups. chown. fallocate. seek. xattr. acl. " +
				"exec.suid exec.capability device. mmap. socket.",
		},
		{"bind", name, "/bind/probe"},
		// By the same file server as bind, and the guest's own: what may still differ there.
		{"nested", name, "/bind/nested/probe rename. link. mmap. xattr. suid. groups. posix. exec.suid"},
		{"tmpfs", name, "/tmpfs/probe open. rename. xattr. acl. suid. fallocate. exec.capability device."},
		{"disk", name + "-disk", "/home/probe"},
		{"full", name, "full /full/probe"},
		{"quota", name, "full /quota/probe full.write"},
		{"many", name, "/bind/many folder.many"},
	} {
		script := "exec probe " + p.args
		if p.place == "many" {
			script = "PROBE_ENTRIES=" + many + " " + script
		}
		found[p.place] = parse(t, name+" "+p.place, g.sh(t, p.container, script))
	}
	// What the image's layer says of its programs.
	for place, c := range map[string]string{"root": name, "disk": name + "-disk"} {
		for _, program := range []string{"probe", "probe-suid", "probe-sgid", "probe-cap"} {
			found[place]["image."+program] = strings.TrimSpace(g.shAs(t, c, "1000:1000", program+" user"))
		}
	}
	return found
}

// smallDisk makes and mounts a file system of 16 MiB in the place.
func (g ground) smallDisk(t *testing.T, name string) string {
	t.Helper()
	dir, image := g.folder(t, name+"/small"), filepath.Join(g.Dir, name+"-small.ext4")
	g.Place.Run(t, "mkfs.ext4", "-q", "-m", "0", image, "16M")
	g.Place.Run(t, "mount", "-o", "loop", image, dir)
	return dir
}

// quota makes a folder that holds 2 MiB. Of the file systems with quotas, btrfs alone needs nothing
// of the kernel but itself.
func (g ground) quota(t *testing.T, name string) string {
	t.Helper()
	dir, image := g.folder(t, name+"/quota"), filepath.Join(g.Dir, name+"-quota.btrfs")
	g.Place.Run(t, "truncate", "-s", "128M", image)
	g.Place.Run(t, "mkfs.btrfs", "-q", image)
	g.Place.Run(t, "mount", "-o", "loop", image, dir)
	g.Place.Run(t, "btrfs", "-q", "quota", "enable", dir)
	limited := filepath.Join(dir, "limited")
	g.Place.Run(t, "btrfs", "-q", "subvolume", "create", limited)
	g.Place.Run(t, "btrfs", "-q", "qgroup", "limit", "2M", limited)
	return limited
}

func parse(t *testing.T, what, out string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(out) {
		name, result, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			t.Fatalf("%s: the probe says %q", what, line)
		}
		found[name] = result
	}
	if len(found) == 0 {
		t.Fatalf("%s: the probe says nothing", what)
	}
	return found
}

// difference is a line of differences.tsv.
type difference struct{ places, name, runc, cloister, reason string }

func differences(t *testing.T) []difference {
	t.Helper()
	f, err := os.Open("differences.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []difference
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		fields := strings.Split(s.Text(), "\t")
		if len(fields) != 5 || fields[4] == "" {
			t.Fatalf("differences.tsv: %q: want place, case, runc's result, cloister's, reason", s.Text())
		}
		list = append(list, difference{fields[0], fields[1], fields[2], fields[3], fields[4]})
	}
	return list
}

// compare fails for each difference that is not listed, and for each listed one that was not seen.
func compare(t *testing.T, runc, cloister results) {
	t.Helper()
	listed := differences(t)
	cases, different := 0, 0
	for place, wants := range runc {
		for name := range cloister[place] {
			if _, ok := wants[name]; !ok {
				t.Errorf("%s: %s: not said by runc", place, name)
			}
		}
		for name, want := range wants {
			cases++
			got := cloister[place][name]
			known := slices.ContainsFunc(listed, func(d difference) bool {
				return d.name == name && slices.Contains(strings.Split(d.places, ","), place) && d.runc == want && d.cloister == got
			})
			if got != want {
				different++
			}
			if got != want && !known {
				t.Errorf("not in differences.tsv:\n%s\t%s\t%s\t%s\t", place, name, want, got)
			}
		}
	}
	for _, d := range listed {
		for place := range strings.SplitSeq(d.places, ",") {
			if runc[place][d.name] != d.runc || cloister[place][d.name] != d.cloister {
				t.Errorf("in differences.tsv and not so: %s: %s: runc %q, cloister %q", place, d.name,
					runc[place][d.name], cloister[place][d.name])
			}
		}
	}
	t.Logf("%d cases on %d places, %d different", cases, len(runc), different)
}
