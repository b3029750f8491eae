// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/vmm/guestimage"
)

// Programs as the records of sandboxes name them. A process of a record is known by the start of
// its program's name, as in qemu-system-x86_64.
const (
	programQEMU      = "qemu"
	programVirtiofsd = "virtiofsd"
)

// guestBox is a sandbox as its record and /proc show it. It is a look at one moment. Nothing is
// locked, so processes may end and records change while a verb runs.
type guestBox struct {
	dir    statedir.Dir
	record statedir.Record
	// broken says why the record could not be read; nothing else is known then.
	broken error
	held   bool // a shim has the broken record open
}

// sandboxes lists everything under the state folder in the order of names. One broken record does
// not hide the others.
func (s *site) sandboxes() ([]guestBox, error) {
	dirs, err := statedir.List(s.config.State)
	if err != nil {
		return nil, orRoot(err)
	}
	list := make([]guestBox, 0, len(dirs))
	for _, dir := range dirs {
		record, err := statedir.Load(dir)
		// Without root nothing can be read, and one error says so once.
		if errors.Is(err, os.ErrPermission) {
			return nil, orRoot(err)
		}
		b := guestBox{dir: dir, record: record, broken: err}
		// A record that a live shim holds is being replaced or damaged; gc must not touch that
		// sandbox.
		if statedir.IsUnreadable(err) {
			if b.held, err = statedir.Held(dir); err != nil {
				return nil, orRoot(err)
			}
		}
		list = append(list, b)
	}
	return list, nil
}

// find gives the sandbox called NAMESPACE/ID, ID, or by the start of its id. An exact name comes
// before a start, so a short id that is the start of another can still be named.
func (s *site) find(name string) (guestBox, error) {
	all, err := s.sandboxes()
	if err != nil {
		return guestBox{}, err
	}
	var starts []guestBox
	var exact []guestBox
	for _, b := range all {
		// NAMESPACE/ID names one sandbox at most.
		full := b.name()
		if name == full || name == string(b.dir.ID()) {
			exact = append(exact, b)
		} else if name != "" && (strings.HasPrefix(string(b.dir.ID()), name) ||
			strings.HasPrefix(full, name) && strings.Contains(name, "/")) {
			starts = append(starts, b)
		}
	}
	if len(exact) > 0 {
		starts = exact
	}
	switch len(starts) {
	case 0:
		return guestBox{}, fmt.Errorf("sandbox %q: not found among the %d in %s: `cloister ps` lists them: %w",
			name, len(all), s.config.State, errdefs.ErrNotFound)
	case 1:
		return starts[0], nil
	}
	names := make([]string, 0, len(starts))
	for _, b := range starts {
		names = append(names, b.name())
	}
	return guestBox{}, fmt.Errorf("sandbox %q may be any of %s: name one of them: %w",
		name, strings.Join(names, ", "), errdefs.ErrInvalidArgument)
}

// name is NAMESPACE/ID, which is also its name in the registry and the journal of labels. It is
// unique on a host: an engine's ids are unique in its namespace only.
func (b guestBox) name() string { return string(b.dir.Namespace()) + "/" + string(b.dir.ID()) }

// effects are what the record says, and where it cannot be read what the host shows. What the host
// shows is found by marks in environments, cgroups, registry and journal.
func (s *site) effects(b guestBox) ([]statedir.Effect, error) {
	if !statedir.IsUnreadable(b.broken) {
		return b.record.Effects, nil
	}
	return s.config.Recovery().Found(b.dir)
}

// process gives the sandbox's process of that program; its zero value when there is none. The
// record says which program it started; the name is what the record wrote, not what the process
// shows.
func (b guestBox) process(program string) sys.Process {
	for _, e := range b.record.Effects {
		if e.Kind == statedir.KindProcess && strings.HasPrefix(filepath.Base(e.Path), program) {
			return e.Process
		}
	}
	return sys.Process{}
}

// containers are the first processes of a sandbox of class process, in the order of their start. A
// container that is promised and not started has no process yet.
func (b guestBox) containers() (list []sys.Process) {
	for _, e := range b.record.Effects {
		if e.Kind == statedir.KindContainer && e.Process.PID != 0 {
			list = append(list, e.Process)
		}
	}
	return list
}

// main is the process that stands for the sandbox: QEMU, or process 1 of the first container. ps
// and engines show its pid.
func (b guestBox) main() sys.Process {
	if b.class() != classProcess {
		return b.process(programQEMU)
	}
	if list := b.containers(); len(list) > 0 {
		return list[0]
	}
	return sys.Process{}
}

// knownClass is the sandbox's class; empty when its record cannot be read. Commands that need a
// class use class, which guesses vm.
func (b guestBox) knownClass() string {
	if b.broken != nil {
		return ""
	}
	return b.class()
}

// states of a sandbox.
const (
	stateRunning  = "running"
	stateStarting = "starting"   // its shim lives and its machine does not run yet
	stateEnded    = "ended"      // its machine has ended, and its shim waits to be told to delete it
	stateDead     = "dead"       // its shim is gone: cloister gc
	stateUnknown  = "unreadable" // the record is damaged, and a shim has it open
)

// state asks for the shim first: only its own life tells whether the record counts. A running QEMU
// without a shim cannot be reached, and is killed by its socket's end.
func (b guestBox) state() string {
	switch {
	// A record that cannot be read, though a shim holds it, is no reason to say dead.
	case b.held, b.broken != nil && !statedir.IsUnreadable(b.broken) && !errdefs.IsNotFound(b.broken):
		return stateUnknown
	// Nothing serves what still runs of it.
	case !running(b.record.Owner):
		return stateDead
	case running(b.main()), slices.ContainsFunc(b.containers(), running):
		return stateRunning
	// It ran: a recorded end, or a process that is no more.
	case b.record.Ended != nil, b.main() != (sys.Process{}):
		return stateEnded
	}
	return stateStarting
}

// running takes a process that cannot be looked up for one that runs. An error is no proof of the
// end: gc would take a living sandbox for a dead one.
func running(p sys.Process) bool {
	alive, err := p.Alive()
	return alive || err != nil
}

// label is QEMU's, or that of a plain container's processes; zero when the sandbox has none. A
// record's label is parsed again, since the file could be damaged.
func (b guestBox) label() labels.Label {
	l, err := labels.Parse(b.record.Facts["label"])
	if err != nil {
		return labels.Label{}
	}
	return l
}

// memory is the proportional share of the host's memory that each process holds, in bytes. Parts
// are separate, so that one sees whether the guest or its helpers grow.
type memory struct {
	QEMU      int64 `json:"qemu"`
	Virtiofsd int64 `json:"virtiofsd"`
	Shim      int64 `json:"shim"`
	// Containers are the processes of class process.
	Containers int64 `json:"containers,omitempty"`
}

// sum is of all parts, in bytes.
func (m memory) sum() int64 { return m.QEMU + m.Virtiofsd + m.Shim + m.Containers }

// memory needs root for processes of other users; what cannot be read counts as zero.
func (s *site) memory(b guestBox) memory {
	pss := func(p sys.Process) int64 {
		// A process that has ended holds nothing.
		if !running(p) {
			return 0
		}
		n, err := s.pss(p.PID)
		if err != nil {
			return 0
		}
		return n
	}
	m := memory{QEMU: pss(b.process(programQEMU)), Virtiofsd: pss(b.process(programVirtiofsd)), Shim: pss(b.record.Owner)}
	for _, pid := range b.members() {
		if n, err := s.pss(pid); err == nil {
			m.Containers += n
		}
	}
	return m
}

// members are the processes of a sandbox of class process, which has each container in a cgroup. A
// plain container's children are not in the record; its cgroup knows them.
func (b guestBox) members() (pids []int) {
	if b.class() != classProcess {
		return nil
	}
	for _, e := range b.record.Effects {
		if e.Kind != statedir.KindCgroup {
			continue
		}
		// The cgroup may be gone with its container.
		group, err := cgroup.At(e.Path)
		if err != nil {
			continue
		}
		if list, err := group.Pids(); err == nil {
			pids = append(pids, list...)
		}
	}
	return pids
}

// pss reads a process's proportional set size in bytes. smaps_rollup is one walk over the mappings
// by the kernel; reading smaps would be many lines.
func (s *site) pss(pid int) (int64, error) {
	f, err := os.Open(s.path("proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no line Pss", f.Name())
}

// imageAge tells a running guest image from the one in its folder now. Where the record has the
// digest of the image's inputs, a rebuild that changed nothing is not newer.
type imageAge struct {
	Dir    string `json:"dir"`
	Kernel string `json:"kernel"`
	// Now is the kernel in the folder.
	Now string `json:"now,omitempty"`
	// Old is true when the folder holds another image than the guest was started with.
	Old bool `json:"old"`
	// Problem says why the two could not be compared.
	Problem string `json:"problem,omitempty"`
}

// image compares what the record says with the folder. The folder may hold another image since; the
// guest goes on with what it has loaded.
func (b guestBox) image() imageAge {
	a := imageAge{Dir: b.record.Facts["image"], Kernel: b.record.Facts["kernel"]}
	if a.Dir == "" {
		a.Problem = "not recorded"
		return a
	}
	image, err := guestimage.Open(a.Dir)
	if err != nil {
		a.Problem = err.Error()
		return a
	}
	a.Now = image.Manifest.Kernel.Version
	// Newer records have the digest.
	if inputs := b.record.Facts["inputs"]; inputs != "" {
		a.Old = inputs != image.Manifest.Inputs
		return a
	}
	// Records without the image's digest: a manifest written since is another image's.
	st, err := os.Stat(filepath.Join(a.Dir, guestimage.ManifestName))
	a.Old = a.Now != a.Kernel || err == nil && st.ModTime().After(b.record.Created)
	return a
}

// age says how long ago something was, in one unit and a bit. It is rounded down.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
