// SPDX-License-Identifier: Apache-2.0

package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// act is a script that one container of a pair runs, and what it prints.
type act struct{ in, script, want string }

// case of a pair: what the containers do, one after the other.
type shared struct {
	what string
	acts []act
}

// background runs a program that outlives its script, with its output in file, and waits for the
// first line of that.
func background(program, file string) string {
	return program + " >" + file + " 2>&1 </dev/null & until [ -s " + file + " ]; do sleep 0.1; done"
}

// pair is two containers of one sandbox: b shares the network of a, as Docker's --network
// container:a does.
type pair struct {
	ground
	name, runtime string
	dir           string // with the volumes
}

// id is the name of a container of the pair.
func (p pair) id(which string) string { return p.name + "-" + which }

// startOne starts a container that shares the network of the container with, "" for its own.
func (p pair) startOne(t *testing.T, which, with string, options ...string) {
	t.Helper()
	if with != "" {
		options = append(options, fmt.Sprintf("--with-ns=network:/proc/%d/ns/net", p.pid(t, p.id(with))))
	}
	p.start(t, p.id(which), p.runtime, append(options, "--mount=type=tmpfs,src=tmpfs,dst=/tmp,options=mode=1777")...)
}

// pid is that of a task, as the engine knows it.
func (p pair) pid(t *testing.T, id string) int {
	t.Helper()
	var pid int
	for line := range strings.Lines(p.Must(t, "task", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			if _, err := fmt.Sscan(fields[1], &pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid <= 1 {
		t.Fatalf("task %s has pid %d", id, pid)
	}
	return pid
}

// try has the containers do what a case says, and compares.
func (p pair) try(t *testing.T, cases []shared) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			for _, a := range c.acts {
				if got := p.sh(t, p.id(a.in), a.script); got != a.want {
					t.Errorf("%s: %s (-want +got):\n%s", a.in, a.script, cmp.Diff(a.want, got))
				}
			}
		})
	}
}

// TestVolumesOfAPod has two containers of one sandbox use the same host folders: it is one file
// system for them, as it is under runc.
func TestVolumesOfAPod(t *testing.T) {
	shell := "[debug]\nshell = \"" + testenv.NeedBusybox(t) + "\"\n"
	g := newGround(t, host.Options{Cloister: shell + "[timeouts]\nboot = \"5m\"\n"})
	before := g.Look(t)
	for name, runtime := range runtimes() {
		t.Run(name, func(t *testing.T) {
			p := pair{ground: g, name: name, runtime: runtime, dir: g.folder(t, name)}
			for _, volume := range []string{"both", "mixed", "closed", "tree", "tree/sub"} {
				g.folder(t, name+"/"+volume, "of-"+filepath.Base(volume))
			}
			g.folder(t, name, "file")
			at := func(volume string) string { return filepath.Join(p.dir, volume) }
			p.startOne(t, "a", "",
				bind(at("both"), "/both", "rbind:rw"), bind(at("both"), "/again", "rbind:rw"), bind(at("mixed"), "/mixed", "rbind:rw"),
				bind(at("closed"), "/closed", "rbind:ro"), bind(at("file"), "/file", "bind:rw"), bind(at("tree"), "/tree", "rbind:rw"))
			p.startOne(t, "b", "a",
				bind(at("both"), "/both", "rbind:rw"), bind(at("mixed"), "/mixed", "rbind:ro"),
				bind(at("closed"), "/closed", "rbind:ro"), bind(at("file"), "/file", "bind:rw"), bind(at("tree/sub"), "/sub", "rbind:rw"))
			p.try(t, meetings())
			p.try(t, locks())
			p.try(t, replacements())
			p.try(t, twice())
			p.try(t, readOnly())
			if runtime == bed.Cloister {
				p.closedToRoot(t)
			}
			p.leaves(t, at)
		})
	}
	g.NothingLeft(t, before)
}

// meetings are what two processes find each other by in a folder.
func meetings() []shared {
	return []shared{
		{"unix socket", []act{
			{"a", background("probe listen /both/socket", "/tmp/listen"), ""},
			{"b", "printf word | probe dial /both/socket 2>&1", "got word"},
		}},
		{"unix socket of the second container", []act{
			{"b", background("probe listen /both/socket-b", "/tmp/listen"), ""},
			{"a", "printf word | probe dial /both/socket-b 2>&1", "got word"},
		}},
		{"unix socket in a read-only volume", []act{
			{"a", background("probe listen /mixed/socket", "/tmp/listen-mixed"), ""},
			{"b", "printf word | probe dial /mixed/socket 2>&1", "got word"},
		}},
		{"FIFO", []act{
			{"a", "mkfifo /both/fifo; sh -c 'echo through >/both/fifo' >/dev/null 2>&1 </dev/null &", ""},
			{"b", "timeout 20 cat /both/fifo", "through\n"},
		}},
		{"shared map of a file that is written", []act{
			{"a", "printf before >/both/map; truncate -s 4096 /both/map", ""},
			{"b", background("probe helper map-follow /both/map behind", "/tmp/map"), ""},
			{"a", "printf behind | dd of=/both/map conv=notrunc 2>/dev/null", ""},
			{"b", "until [ $(wc -l </tmp/map) = 2 ]; do sleep 0.1; done; cat /tmp/map", "before\nbehind\n"},
		}},
		{"shared map of a file that is mapped", []act{
			{"b", background("probe helper map-follow /both/map stored", "/tmp/map-2"), ""},
			{"a", "probe helper map /both/map stored", "behi ok\n"},
			{"b", "until [ $(wc -l </tmp/map-2) = 2 ]; do sleep 0.1; done; cat /tmp/map-2", "behind\nstored\n"},
		}},
		{"inotify", []act{
			{"b", "mkdir /both/watched; " + background("probe watch /both/watched", "/tmp/watch"), ""},
			{"a", "echo x >/both/watched/new", ""},
			{
				"b", "for i in $(seq 200); do ! grep -q new=x /tmp/watch || break; sleep 0.1; done; grep -o new=x /tmp/watch | head -n 1",
				"new=x\n",
			},
		}},
	}
}

// locks are held by one container while the other asks for them.
func locks() []shared {
	var all []shared
	for _, kind := range []string{"flock", "posix", "ofd"} {
		for _, file := range []string{"/both/lock-" + kind, "/file"} {
			if kind == "ofd" && file == "/file" {
				continue // it is in the way of the posix lock that is held there
			}
			out := "/tmp/" + kind + strings.ReplaceAll(file, "/", "-")
			all = append(all, shared{kind + " lock of " + file, []act{
				{"a", background("probe helper lock-hold "+kind+" "+file, out), ""},
				{"a", "cat " + out, "ok\n"},
				{"b", "probe helper lock " + kind + " " + file, "EAGAIN\n"},
			}})
		}
	}
	return all
}

// replacements are what the second container reads when the first has put another file under a
// name.
func replacements() []shared {
	return []shared{
		{"read after rename", []act{
			{"a", "printf none >/both/replaced", ""},
			{"b", background("probe helper read-server /both/replaced", "/tmp/server"), ""},
			{"a", "probe helper replace-and-ask /both/replaced", "0 of 40 are old\n"},
		}},
		{"a volume of one file", []act{
			{"a", "printf from-a >/file", ""},
			{"b", "cat /file", "from-a"},
			{"b", "printf from-b >>/file", ""},
			{"a", "cat /file", "from-afrom-b"},
		}},
		{"size of a file that grows", []act{
			{"a", "printf 12345 >/both/grows", ""},
			{"b", "stat -c %s /both/grows", "5\n"},
			{"a", "printf 678 >>/both/grows", ""},
			{"b", "stat -c %s /both/grows", "8\n"},
		}},
		{"a removed name", []act{
			{"a", "echo x >/both/removed", ""},
			{"b", "cat /both/removed", "x\n"},
			{"a", "rm /both/removed", ""},
			{"b", "[ -e /both/removed ] || echo gone", "gone\n"},
		}},
		// Of a volume and a folder in it only the content is promised to be one: see the limits in
		// the documents.
		{"a volume in a volume", []act{
			{"a", "echo x >/tree/sub/new", ""},
			{"b", "cat /sub/new; cat /sub/of-sub", "x\nof-sub"},
			{"b", "echo y >/sub/back", ""},
			{"a", "cat /tree/sub/back", "y\n"},
		}},
	}
}

// twice is one container that has a volume in two places.
func twice() []shared {
	return []shared{
		{"one volume twice: read after rename", []act{{
			"a", `wrong=0
for i in $(seq 30); do echo $i >/both/t; mv /both/t /both/u; [ "$(cat /again/u)" = $i ] || wrong=$((wrong+1)); done; echo $wrong`, "0\n",
		}}},
		{"one volume twice: the same file", []act{{"a", "[ /both/u -ef /again/u ] && echo same", "same\n"}}},
		{"one volume twice: unix socket", []act{
			{"a", background("probe listen /again/twice", "/tmp/listen-twice"), ""},
			{"a", "printf word | probe dial /both/twice 2>&1", "got word"},
		}},
		{"one volume twice: lock", []act{
			{"a", background("probe helper lock-hold flock /again/l", "/tmp/lock-twice"), ""},
			{"a", "probe helper lock flock /both/l", "EAGAIN\n"},
		}},
	}
}

// readOnly has a volume that one container may write to and the other may not, and one that is
// read-only in both.
func readOnly() []shared {
	denied := func(name string) string { return "touch: " + name + ": Read-only file system\nexit 1\n" }
	return []shared{
		{"written by one, read-only in the other", []act{
			{"b", "touch /mixed/b 2>&1", denied("/mixed/b")},
			{"a", "echo w >/mixed/a", ""},
			{"b", "cat /mixed/a", "w\n"},
			{"b", "touch /mixed/a 2>&1", denied("/mixed/a")},
			{"b", "rm /mixed/of-mixed 2>&1 | sed 's/.*: //'", "Read-only file system\n"},
		}},
		{"read-only in both", []act{
			{"a", "touch /closed/a 2>&1", denied("/closed/a")},
			{"b", "cat /closed/of-closed; touch /closed/b 2>&1", "of-closed" + denied("/closed/b")},
		}},
	}
}

// everywhere has the guest's root make each mount writable that it can, and then make a file beside
// each one named so. It prints the different outcomes.
const everywhere = `awk '$2 ~ "^/run/cloister" { print $2 }' /proc/mounts | while read m; do
	mount -o remount,rw,bind "$m"; mount -o remount,rw "$m"
done 2>/dev/null
for f in $(find /run/cloister -maxdepth 6 -name NAME 2>/dev/null); do
	touch ${f%/*}/guest-root 2>&1 && echo made
done | sed 's/.*: //' | sort -u
`

// guestRoot runs a script as root of the guest, outside of its containers: it stands for a workload
// that has broken out.
func (p pair) guestRoot(t *testing.T, script string) string {
	t.Helper()
	cmd := p.Place.Command(t.Context(), filepath.Join(testenv.Build(t), "cloister"), "debug", p.id("a"))
	cmd.Env, cmd.Stdin = p.Env, strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// closedToRoot wants the host to keep a volume read-only that no container may write to, whatever
// the guest's root does.
func (p pair) closedToRoot(t *testing.T) {
	t.Helper()
	const denied = "Read-only file system\n"
	root := func(t *testing.T, volume, want string) {
		t.Helper()
		if got := p.guestRoot(t, strings.ReplaceAll(everywhere, "NAME", "of-"+volume)); got != want {
			t.Errorf("the guest's root writes to the volume %s: %q, want %q", volume, got, want)
		}
		_, err := os.Lstat(filepath.Join(p.dir, volume, "guest-root"))
		if made := err == nil; made != (want == "made\n") {
			t.Errorf("the file of the guest's root in %s: %v", volume, err)
		}
	}
	t.Run("read-only in both: the guest's root", func(t *testing.T) { root(t, "closed", denied) })
	// With a container that may write the guest itself keeps the others from it, until that
	// container has gone.
	t.Run("a third that may write", func(t *testing.T) {
		p.startOne(t, "c", "a", bind(filepath.Join(p.dir, "closed"), "/closed", "rbind:rw"))
		p.try(t, []shared{{"all three", []act{
			{"c", "echo of-c >/closed/c; cat /closed/c", "of-c\n"},
			{"a", "cat /closed/c", "of-c\n"},
			{"a", "touch /closed/a 2>&1", "touch: /closed/a: Read-only file system\nexit 1\n"},
			{"b", "rm /closed/c 2>&1 | sed 's/.*: //'", denied},
		}}})
		p.Remove(t, p.id("c"))
		p.try(t, []shared{{"without it", []act{
			{"a", "cat /closed/c; touch /closed/a 2>&1", "of-c\ntouch: /closed/a: Read-only file system\nexit 1\n"},
		}}})
		root(t, "closed", denied)
	})
}

// leaves has containers go: their volumes stay what they are for the rest, and for those that come.
func (p pair) leaves(t *testing.T, at func(string) string) {
	t.Helper()
	options := []string{bind(at("both"), "/both", "rbind:rw"), bind(at("file"), "/file", "bind:rw")}
	works := func(in string) []act {
		return []act{
			{in, "echo " + in + " >/both/" + in + "; cat /both/" + in + " /both/of-both", in + "\nof-both"},
			{in, "printf " + in + " >/file; cat /file", in},
		}
	}
	p.startOne(t, "d", "a", options...)
	p.try(t, []shared{{"a third container", works("d")}, {"and the others", append(works("a"), works("b")...)}})
	p.Remove(t, p.id("d"))
	p.try(t, []shared{{"without the third", append(works("a"), works("b")...)}})
	p.try(t, []shared{{"a socket from before", []act{{"b", "printf word | probe dial /both/socket 2>&1", "got word"}}}})
	p.Remove(t, p.id("a"))
	p.try(t, []shared{{"without the first", works("b")}})
	p.startOne(t, "e", "b", options...)
	p.try(t, []shared{{"with another in its place", append(works("e"), works("b")...)}, {"and a lock", []act{
		{"b", background("probe helper lock-hold flock /both/last", "/tmp/last"), ""},
		{"e", "probe helper lock flock /both/last", "EAGAIN\n"},
	}}})
	for name, want := range map[string]string{"both/a": "a\n", "both/b": "b\n", "both/d": "d\n", "both/e": "e\n", "file": "b"} {
		if data, err := os.ReadFile(at(name)); string(data) != want {
			t.Errorf("%s on the host = %q, %v, want %q", name, data, err, want)
		}
	}
	p.Remove(t, p.id("e"))
	p.Remove(t, p.id("b"))
}
