// SPDX-License-Identifier: Apache-2.0

package files

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister/tests/host"
)

// TestHostChanges edits files on the host while a program in the container waits for inotify to
// tell it.
func TestHostChanges(t *testing.T) {
	g := newGround(t, host.Options{})
	dir := g.folder(t, "home")
	g.Place.WriteCloisterConfig(t, "[workloads]\nwatch = ["+strconv.Quote(dir)+"]\n[timeouts]\nboot = \"5m\"\n")
	before := g.Look(t)
	for name, runtime := range runtimes() {
		t.Run(name, func(t *testing.T) {
			volume, single, alone := g.folder(t, "home/"+name, "f", "gone"),
				g.folder(t, "home/"+name+"-single", "one"), g.folder(t, "home/"+name+"-alone", "f")
			reports := g.folder(t, "reports-"+name)
			defer g.Place.Run(t, "sh", "-c", "[ ! -e "+volume+"/a ] || chattr -a "+volume+"/a") // else nobody can remove it
			g.start(t, name, runtime, bind(volume, "/volume", "rbind:rw"),
				bind(single+"/one", "/one", "rbind:rw"), bind(alone, "/alone", "rbind:rw"), bind(reports, "/reports", "rbind:rw"))
			if got := g.sh(t, name, "for w in /volume /one '/alone f'; do probe watch $w >/reports/${w##*/} 2>&1 & done"); got != "" {
				t.Fatal(got)
			}
			expect(t, reports+"/volume", "f=f gone=gone")
			expect(t, reports+"/alone f", "f=f")
			expect(t, reports+"/one", "/one=one")
			for _, tt := range []struct {
				what, report, want string
				change             func() error
			}{
				{"written", "volume", "f=again gone=gone", func() error { return os.WriteFile(volume+"/f", []byte("again"), 0o644) }},
				{"replaced, as editors do", "volume", "f=third gone=gone", func() error { return replace(volume+"/f", "third") }},
				{"replaced by one as long", "volume", "f=forth gone=gone", func() error { return replace(volume+"/f", "forth") }},
				{"made", "volume", "f=forth gone=gone new=new", func() error { return os.WriteFile(volume+"/new", []byte("new"), 0o644) }},
				{"removed", "volume", "f=forth new=new", func() error { return os.Remove(volume + "/gone") }},
				{"renamed", "volume", "f=forth now=new", func() error { return os.Rename(volume+"/new", volume+"/now") }},
				{"folder with a file", "volume", "d/e/x=x f=forth now=new", func() error {
					if err := os.MkdirAll(volume+"/d/e", 0o755); err != nil {
						return err
					}
					return os.WriteFile(volume+"/d/e/x", []byte("x"), 0o644)
				}},
				{
					"in the new folder", "volume", "d/e/x=y f=forth now=new",
					func() error { return os.WriteFile(volume+"/d/e/x", []byte("y"), 0o644) },
				},
				{"folder renamed", "volume", "d/g/x=y f=forth now=new", func() error { return os.Rename(volume+"/d/e", volume+"/d/g") }},
				{"in the renamed folder", "volume", "d/g/x=z f=forth now=new", func() error { return replace(volume+"/d/g/x", "z") }},
				{"folder removed", "volume", "f=forth now=new", func() error { return os.RemoveAll(volume + "/d") }},
				{
					"a name that is no text", "volume", "f=forth now=new \xff=raw",
					func() error { return os.WriteFile(volume+"/\xff", []byte("raw"), 0o644) },
				},
				{"and its end", "volume", "f=forth now=new", func() error { return os.Remove(volume + "/\xff") }},
				{"beside one that cannot be touched", "volume", "a=a1 f=fifth now=new", func() error {
					g.Place.Run(t, "sh", "-c", "cd "+volume+"; printf a >a; chattr +a a; printf 1 >>a")
					return os.WriteFile(volume+"/f", []byte("fifth"), 0o644)
				}},
				{"and its end", "volume", "f=fifth now=new", func() error {
					g.Place.Run(t, "sh", "-c", "cd "+volume+"; chattr -a a; rm a")
					return nil
				}},
				{"replaced, for who lists nothing", "alone f", "f=a", func() error { return replace(alone+"/f", "a") }},
				{"replaced at once again", "alone f", "f=b", func() error { return replace(alone+"/f", "b") }},
				{"and again", "alone f", "f=c", func() error { return replace(alone+"/f", "c") }},
				{"a volume of one file", "one", "/one=two", func() error { return os.WriteFile(single+"/one", []byte("two"), 0o644) }},
			} {
				if err := tt.change(); err != nil {
					t.Fatal(err)
				}
				t.Log(tt.what)
				expect(t, filepath.Join(reports, tt.report), tt.want)
			}
			unchanged(t, g, name, volume)
			g.Remove(t, name)
		})
	}
	g.NothingLeft(t, before)
}

// unchanged has a time and a mode stay what the host has set them to.
func unchanged(t *testing.T, g ground, container, volume string) {
	t.Helper()
	then := time.Unix(1_000_000_000, 123_456_789)
	file := volume + "/f.new"
	for _, err := range []error{
		os.WriteFile(file, []byte("last"), 0o644), os.Chtimes(file, then, then),
		os.Chmod(file, 0o640), os.Rename(file, volume+"/f"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(t, filepath.Join(filepath.Dir(filepath.Dir(volume)), "reports-"+container, "volume"), "f=last now=new")
	info, err := os.Stat(volume + "/f")
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(then) || info.Mode() != 0o640 {
		t.Errorf("changed at %v with mode %v, want %v and 0640", info.ModTime(), info.Mode(), then)
	}
	if got := g.sh(t, container, "stat -c '%Y %a' /volume/f"); got != "1000000000 640\n" {
		t.Errorf("the container sees %q", got)
	}
}

// replace gives a file another content in one step.
func replace(name, text string) error {
	if err := os.WriteFile(name+"~", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(name+"~", name)
}

// expect waits until the last line of a report is what it is to be.
func expect(t *testing.T, report, want string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var data []byte
	for range 3000 {
		data, _ = os.ReadFile(report)
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		if lines[len(lines)-1] == want {
			return
		}
		<-tick.C
	}
	t.Fatalf("no event that shows %q; the last are %q", want, data[max(0, len(data)-400):])
}
