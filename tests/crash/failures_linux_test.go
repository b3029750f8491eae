// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/guestapi"
	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/guestimage"
)

// settings are what a case says in cloister's configuration, section by section.
type settings struct{ image, machine, timeouts, state, jail string }

// scripts lets a script stand for a program: the jail allows a program its own files alone, and
// shows it no others.
const scripts = `disable = ["landlock", "seccomp", "root"]`

// configure writes a configuration and gives the options that have ctr use it.
func (s *stage) configure(t *testing.T, id string, c settings) []string {
	t.Helper()
	if c.image == "" {
		c.image = testenv.NeedGuest(t)
	}
	if c.timeouts == "" {
		// Many cases start beside each other: a slow boot is not what they are about.
		c.timeouts = `boot = "5m"`
	}
	if c.state == "" {
		c.state = "/run/cloister"
	}
	// Most cases spoil the guest image, QEMU or the state's folder, of which a template would have
	// to be made: all start cold, and none has a builder try that beside the others.
	text := fmt.Sprintf("state = %q\nroot = %q\n[labels]\nmac = \"none\"\n[guest]\nimage = %q\n[machine]\n%s\n[timeouts]\n%s\n"+
		"[jail]\n%s\n[template]\nmode = \"off\"\n",
		c.state, filepath.Join(s.Place.Dir, "cloister"), c.image, c.machine, c.timeouts, c.jail)
	name := filepath.Join(s.Dir, id+".toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--runtime-config-path", name}
}

// program writes a script that stands for a program and gives its path.
func (s *stage) program(t *testing.T, name, script string) string {
	t.Helper()
	path := filepath.Join(s.Dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStartFailures wants each error to say what was wanted, what was found and what to do, and
// nothing to be left.
func TestStartFailures(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	spoiled := func(t *testing.T, spoil func(i *image)) settings {
		i := copyImage(t, filepath.Join(s.Dir, strings.ReplaceAll(t.Name(), "/", "_")))
		spoil(i)
		return settings{image: i.dir}
	}
	hostile := func(mode, timeouts string) func(t *testing.T) settings {
		return func(t *testing.T) settings {
			c := spoiled(t, func(i *image) { i.hostile(t, mode) })
			c.timeouts = timeouts
			return c
		}
	}
	// Sealed means that the manifest fits the damaged file: QEMU or the guest's kernel has to find
	// the damage, not the host's check.
	truncate := func(name string, sealed bool) func(t *testing.T) settings {
		return func(t *testing.T) settings {
			return spoiled(t, func(i *image) {
				data, err := os.ReadFile(filepath.Join(i.dir, name))
				if err != nil {
					t.Fatal(err)
				}
				i.put(t, name, data[:len(data)/2])
				if sealed {
					i.seal(t)
				}
			})
		}
	}
	tests := []struct {
		name    string
		config  func(t *testing.T) settings
		options []string
		wants   []string // in the error
	}{
		{
			"no-qemu", func(*testing.T) settings { return settings{machine: `qemu = "/nowhere/qemu"`} }, nil,
			[]string{"/nowhere/qemu", "not found", "install it", "[machine]"},
		},
		{
			"no-virtiofsd", func(*testing.T) settings { return settings{machine: `virtiofsd = "/nowhere/virtiofsd"`} }, nil,
			[]string{"/nowhere/virtiofsd", "not found", "install it"},
		},
		{
			"no-image", func(*testing.T) settings { return settings{image: "/nowhere/guest"} }, nil,
			[]string{"/nowhere/guest", "cloister guest build"},
		},
		{"truncated-kernel", truncate(guestimage.KernelName, false), nil, []string{"damaged", "bytes, want", "cloister guest build"}},
		{"truncated-initrd", truncate(guestimage.InitrdName, false), nil, []string{"damaged", "bytes, want", "cloister guest build"}},
		{"half-an-initrd", truncate(guestimage.InitrdName, true), nil, []string{"console: ", "Kernel panic"}},
		{"half-a-kernel", truncate(guestimage.KernelName, true), nil, []string{"qemu"}},
		{"foreign-image", func(t *testing.T) settings {
			return spoiled(t, func(i *image) { i.put(t, guestimage.ManifestName, []byte(`{"name": "another program's"}`)) })
		}, nil, []string{"bad guest image manifest", "name"}},
		{"foreign-format", func(t *testing.T) settings {
			return spoiled(t, func(i *image) { i.manifest.Format = 99; i.seal(t) })
		}, nil, []string{"format 99, want 1", "run: cloister guest build"}},
		{"panic", hostile("exit", ""), nil, []string{"console: ", "Kernel panic", "Attempted to kill init"}},
		{"silent-agent", hostile("silent", `boot = "20s"`), nil, []string{"sent nothing for ", "timeouts.boot", "console: "}},
		{
			"other-version", hostile("version", ""), nil,
			[]string{
				"agent v99.0.0 speaks protocol 99", fmt.Sprintf("this host speaks %d:", guestapi.Protocol),
				"run: cloister guest build",
			},
		},
		{"qemu-refuses", func(t *testing.T) settings {
			return settings{
				machine: fmt.Sprintf("qemu = %q", s.program(t, "qemu-refuses", "echo no such machine >&2; exit 3\n")),
				jail:    scripts,
			}
		}, nil, []string{"exit status 3", "no such machine"}},
		{"qemu-dies", func(t *testing.T) settings {
			return settings{machine: fmt.Sprintf("qemu = %q", s.program(t, "qemu-dies", "kill -SEGV $$\n")), jail: scripts}
		}, nil, []string{"qemu ended", "segmentation fault"}},
		{"virtiofsd-refuses", func(t *testing.T) settings {
			return settings{machine: fmt.Sprintf("virtiofsd = %q",
				s.program(t, "virtiofsd-refuses",
					"case $1 in --help) exec /usr/lib/qemu/virtiofsd --help;; esac; echo no room >&2; exit 4\n")), jail: scripts}
		}, nil, []string{"virtiofsd"}},
		{"kvm-unreadable", func(t *testing.T) settings {
			s.Place.Run(t, "sh", "-c", "[ -e /dev/kvm ] || exit 0; mount --bind /dev/kvm /dev/kvm && mount -o remount,bind,nodev /dev/kvm")
			t.Cleanup(func() { s.clean(t, "sh", "-c", "umount /dev/kvm 2>/dev/null; true") })
			return settings{machine: `accel = "kvm"`}
		}, nil, []string{"/dev/kvm"}},
		{"unknown-key", func(*testing.T) settings { return settings{machine: `no_such_key = 1`} }, nil, []string{"no_such_key", "unknown"}},
		{
			"little-memory", func(*testing.T) settings { return settings{} },
			[]string{"--memory-limit", "1000000"},
			[]string{"linux.resources.memory.limit", "1000000", "at least 4194304"},
		},
		{
			"huge-memory", func(*testing.T) settings { return settings{} },
			[]string{"--memory-limit", fmt.Sprint(int64(1) << 52)},
			[]string{"linux.resources.memory.limit", "above the bound"},
		},
		{"host-network", func(*testing.T) settings { return settings{} }, []string{"--net-host"}, []string{"network"}},
		{"disk-full", func(t *testing.T) settings {
			s.Place.Run(t, "sh", "-c",
				"mkdir -p /run/full && mount -t tmpfs -o size=4k none /run/full && { dd if=/dev/zero of=/run/full/x 2>/dev/null; true; }")
			t.Cleanup(func() { s.clean(t, "sh", "-c", "umount /run/full; rmdir /run/full") })
			return settings{state: "/run/full"}
		}, nil, []string{"no space left on device"}},
		{"state-not-absolute", func(*testing.T) settings { return settings{state: "run"} }, nil, []string{"not absolute"}},
		{
			"mount-missing", func(*testing.T) settings { return settings{} },
			[]string{"--mount", "type=bind,src=/nowhere/volume,dst=/v,options=rbind:rw"},
			[]string{"mounts[", "/nowhere/volume", "does not exist"},
		},
		{
			"mount-socket", func(*testing.T) settings { return settings{} },
			[]string{"--mount", "type=bind,src=/run/containerd/containerd.sock,dst=/v,options=rbind:rw"},
			[]string{"mounts[", "is a socket"},
		},
		{
			"netns-missing", func(*testing.T) settings { return settings{} },
			[]string{"--with-ns", "network:/nowhere/netns"},
			[]string{"/nowhere/netns", "network namespace"},
		},
		{
			"netns-not-one", func(*testing.T) settings { return settings{} },
			[]string{"--with-ns", "network:/etc/passwd"},
			[]string{"/etc/passwd", "network namespace"},
		},
	}
	t.Run("case", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				options := append([]string{"--rm"}, s.configure(t, tt.name, tt.config(t))...)
				r := s.Within(t, callLimit, s.Args(tt.name, append(options, tt.options...), "true")...)
				if r.Code == 0 {
					t.Fatal("the container was started")
				}
				for _, want := range tt.wants {
					if !strings.Contains(r.Stderr, want) {
						t.Errorf("the error lacks %q: %s", want, r.Stderr)
					}
				}
				if strings.Contains(r.Stderr, "failed to") && strings.Contains(strings.SplitN(r.Stderr, "sandbox "+tt.name, 2)[0], "undo") {
					t.Errorf("something could not be taken back: %s", r.Stderr)
				}
				s.gone(t, tt.name)
				s.nothingOf(t, before, tt.name)
			})
		}
	})
	s.NothingLeft(t, before)
	t.Logf("%d ways to fail", len(tests))
}

// TestHostileGuests wants a guest that breaks the contract to be stopped with a reason, in bounded
// memory, and its neighbour not to notice.
func TestHostileGuests(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	s.Start(t, "neighbour", nil)
	// An empty want is any error: QEMU, the timeout and the check of the contract may all be first.
	tests := []struct{ mode, want string }{
		{"no preamble", "preamble of the agent"},
		{"hang up", ""},
		{"deaf", ""},
		{"no frames", "guest breaks the contract"},
		{"huge frame", "guest breaks the contract"},
		{"pings", ""},
		{"own streams", "guest breaks the contract"},
		{"console flood", ""},
		{"no answers", ""},
		{"wrong answers", ""},
	}
	t.Run("guest", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.mode, func(t *testing.T) {
				t.Parallel()
				id := "hostile-" + strings.ReplaceAll(tt.mode, " ", "-")
				i := copyImage(t, filepath.Join(s.Dir, id))
				i.hostile(t, tt.mode)
				options := append([]string{"--rm"}, s.configure(t, id, settings{image: i.dir, timeouts: `boot = "30s"`})...)
				ended := make(chan struct{})
				var memory, console int64
				watched := make(chan struct{})
				go func() {
					defer close(watched)
					memory, console = s.observe(t, id, ended)
				}()
				r := s.Within(t, callLimit, s.Args(id, options, "true")...)
				close(ended)
				<-watched
				if r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
					t.Errorf("run = %+v, want an error with %q", r, tt.want)
				}
				t.Logf("shim %d KiB at most, console %d KiB: %s", memory, console, r.Stderr)
				// What a guest can have its shim keep is bounded (runtime/README.md).
				if memory > 100<<10 {
					t.Errorf("the shim used %d KiB", memory)
				}
				if console > vmm.DefaultConsoleBytes>>10 {
					t.Errorf("the console's log has %d KiB", console)
				}
				if r := s.Exec(t, "neighbour", id, "echo", "well"); r.Stdout != "well\n" {
					t.Errorf("exec in another sandbox meanwhile = %+v", r)
				}
				s.nothingOf(t, before, id)
			})
		}
	})
	s.Remove(t, "neighbour")
	s.NothingLeft(t, before)
}

// TestFalseAgentEventsAreBounded has an agent report exits and OOM events without end: of its
// container one exit and one TaskOOM a second are published, and of others nothing. The shim's
// memory stays flat.
func TestFalseAgentEventsAreBounded(t *testing.T) {
	s := newStage(t)
	before := s.Look(t)
	const id, neighbour = "liar", "liars-neighbour"
	s.Start(t, neighbour, nil)
	i := copyImage(t, filepath.Join(s.Dir, id))
	i.hostile(t, "event flood")
	begin := time.Now()
	s.Start(t, id, s.configure(t, id, settings{image: i.dir}), "sleep", "1000")
	console := s.console(s.Shim(t, id), id)
	if wrong := host.Await(host.Patience, func() string {
		data, err := os.ReadFile(console)
		if err == nil && strings.Contains(string(data), "20000 events") {
			return ""
		}
		return fmt.Sprintf("the agent has not sent its events (%v):\n%s", err, data)
	}); wrong != "" {
		t.Fatal(wrong)
	}
	ended := make(chan struct{})
	close(ended)
	if memory, _ := s.observe(t, id, ended); memory == 0 || memory > 100<<10 {
		t.Errorf("the shim used %d KiB, want at most 100 MiB", memory)
	}
	// An event comes some time after the agent has told it.
	if wrong := host.Await(host.Patience, func() string {
		if counts := s.topics(id); counts["exit"] == 0 || counts["oom"] == 0 {
			return fmt.Sprintf("published: %v, want an exit and an oom", counts)
		}
		return ""
	}); wrong != "" {
		t.Error(wrong)
	}
	for _, e := range s.events() {
		if e.Container == id {
			continue
		}
		if strings.HasPrefix(e.Container, "unknown") || e.Container == neighbour && (e.Topic == "exit" || e.Topic == "oom") {
			t.Errorf("the agent of %s has told %s of %s", id, e.Topic, e.Container)
		}
	}
	counts := s.topics(id)
	if most := int(time.Since(begin).Seconds()) + 2; counts["exit"] != 1 || counts["oom"] < 1 || counts["oom"] > most {
		t.Errorf("published: %v, want one exit and at most %d oom", counts, most)
	}
	if r := s.Exec(t, neighbour, "x", "echo", "well"); r.Stdout != "well\n" {
		t.Errorf("exec in the other sandbox = %+v", r)
	}
	s.Remove(t, neighbour)
	s.Remove(t, id)
	s.nothingOf(t, before, id)
}

// topics counts the events of a container by topic.
func (s *stage) topics(id string) map[string]int {
	counts := map[string]int{}
	for _, e := range s.events() {
		if e.Container == id {
			counts[e.Topic]++
		}
	}
	return counts
}

// observe gives the most memory that the shim of a container used, and the most its console's log
// took, in KiB, until ended is closed.
func (s *stage) observe(t *testing.T, id string, ended chan struct{}) (memory, console int64) {
	t.Helper()
	for {
		for _, pid := range s.Processes(t, "containerd-shim", "-id "+id+" ", " serve ") {
			memory = max(memory, status(s.Place.Path(fmt.Sprintf("/proc/%d/status", pid)), "VmHWM:"))
			if info, err := os.Stat(s.console(pid, id)); err == nil {
				console = max(console, info.Size()>>10)
			}
		}
		select {
		case <-ended:
			return memory, console
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// console is the path of a sandbox's console log, through the mount namespace of its shim.
func (s *stage) console(shim int, id string) string {
	return s.Place.Path(fmt.Sprintf("/proc/%d/root/run/cloister/%s/%s/own/console.log", shim, s.Namespace, id))
}

// status reads a number of KiB from a process's status; 0 when the process has gone.
func status(file, field string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if rest, ok := strings.CutPrefix(line, field); ok {
			if _, err := fmt.Sscan(rest, &kib); err == nil {
				return kib
			}
		}
	}
	return 0
}
