// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cloister/labels"
	"cloister/labels/mcs"
	"cloister/labels/relabel"
	"cloister/sys"
)

// labelled is a process of some tenant. Tenants of other engines are named too, since a clash with
// one of them is as bad.
type labelled struct {
	PID     int          `json:"pid"`
	Command string       `json:"command"`
	Label   labels.Label `json:"label"`
	// Tenant is a sandbox of ours as NAMESPACE/ID, else the other engine's name for it, from its
	// cgroup.
	Tenant string `json:"tenant"`
	Engine string `json:"engine"`
	// Class is of a sandbox of ours.
	Class string `json:"class,omitempty"`
}

// engineCloister marks what is ours. Names of other engines come from engineOf.
const engineCloister = "cloister"

// held is a level and everyone who has to do with it. Holders have a level in the registry; tenants
// run at it. The two can differ: a stopped container's files keep a level.
type held struct {
	Level     labels.Level `json:"level"`
	Kind      mcs.Kind     `json:"kind,omitempty"`    // from the registry; empty when the level is not in it
	Share     string       `json:"share,omitempty"`   // name of the group that holds it on purpose
	Holders   []string     `json:"holders,omitempty"` // sandboxes in the registry
	Tenants   []string     `json:"tenants"`           // of the processes that run at it
	Processes []int        `json:"processes"`
	Files     []string     `json:"files,omitempty"`
}

// picture is who holds which label on this host. It is one look; processes come and go meanwhile.
type picture struct {
	Mode      string        `json:"mode"` // enforcing, permissive, disabled
	Hidden    int           `json:"hidden,omitempty"`
	Processes []labelled    `json:"processes"`
	Levels    []held        `json:"levels"`
	Files     []relabel.Use `json:"files"`
	Clashes   []string      `json:"clashes"`
	Problems  []string      `json:"problems,omitempty"`
}

// look takes the picture. What cannot be seen is in Problems; the rest is shown all the same.
func (s *site) look(ctx context.Context) (picture, error) {
	p := picture{Mode: "disabled", Processes: []labelled{}, Levels: []held{}, Files: []relabel.Use{}, Clashes: []string{}}
	enabled, err := s.host.Enabled()
	if err != nil {
		return p, err
	}
	if enabled {
		// Enabled and not enforcing; an error of asking counts as permissive, the weaker word.
		p.Mode = "permissive"
		if enforcing, err := s.host.Enforcing(); err == nil && enforcing {
			p.Mode = "enforcing"
		}
	}
	seen, err := s.host.Processes(ctx)
	if err != nil {
		return p, err
	}
	boxes, err := s.sandboxes()
	if err != nil {
		return p, err
	}
	// Without root most processes do not show their label.
	p.Hidden = seen.Hidden
	p.Processes = append(p.Processes, s.name(seen.Processes, boxes)...)
	entries, uses, err := s.kept()
	// A damaged journal is a problem to show, and no reason to hide the processes.
	if err != nil {
		p.Problems = append(p.Problems, strings.Split(err.Error(), "\n")...)
	}
	p.Files = append(p.Files, uses...)
	p.Levels = levels(p.Processes, entries, uses)
	p.Clashes = append(p.Clashes, clashes(p.Levels)...)
	return p, nil
}

// kept reads the registry of levels and the journal of labelled files, where there are any. Entries
// that cannot be read are named in the error; the others are listed all the same.
func (s *site) kept() ([]mcs.Entry, []relabel.Use, error) {
	self, err := sys.Self() // this process opens them, wherever the rest is looked for
	if err != nil {
		return nil, nil, err
	}
	var entries []mcs.Entry
	var uses []relabel.Use
	var problems []error
	// A host on which no sandbox was ever started has neither.
	if dir := filepath.Join(s.config.Root, "mcs"); there(dir) {
		registry, err := mcs.Open(mcs.Options{Dir: dir, Self: self, Alive: sys.Process.Alive})
		if err == nil {
			entries, err = registry.Entries()
		}
		problems = append(problems, orRoot(err))
	}
	if dir := filepath.Join(s.config.Root, "relabel"); there(dir) {
		journal, err := relabel.Open(relabel.Options{Dir: dir, Self: self, Alive: sys.Process.Alive})
		if err == nil {
			uses, err = journal.Uses()
		}
		problems = append(problems, orRoot(err))
	}
	return entries, uses, errors.Join(problems...)
}

// there tells whether a path is there, for this user.
func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// name tells whose each process is. A process of ours is known by its pid from the record or the
// container's cgroup, never by its name, which it chooses.
func (s *site) name(seen []labels.Process, boxes []guestBox) []labelled {
	ours := map[int]guestBox{}
	for _, b := range boxes {
		for _, e := range b.record.Effects {
			if e.Process.PID != 0 {
				ours[e.Process.PID] = b
			}
		}
		// Children of plain containers.
		for _, pid := range b.members() {
			ours[pid] = b
		}
	}
	list := make([]labelled, 0, len(seen))
	for _, p := range seen {
		l := labelled{PID: p.PID, Label: p.Label, Command: s.procText(p.PID, "comm")}
		own, is := ours[p.PID]
		if !is && s.status(p.PID, "State") == "Z (zombie)" { // no cgroup lists it, and it can do nothing
			own, is = ours[s.eldest(p, seen)]
		}
		if is {
			l.Tenant, l.Engine, l.Class = own.name(), engineCloister, own.class()
		} else {
			l.Tenant, l.Engine = tenant(s.procText(p.PID, "cgroup"))
		}
		// Neither record nor cgroup tells: it is named by its oldest ancestor at the same level, so
		// that a tree of processes is one tenant.
		if l.Tenant == "" {
			l.Tenant = fmt.Sprintf("pid %d", s.eldest(p, seen))
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b labelled) int { return a.PID - b.PID })
	return list
}

// eldest goes up from a process to the first one with its label. 64 steps: pids are read one by one
// and may be used again meanwhile, which could make a circle.
func (s *site) eldest(p labels.Process, seen []labels.Process) int {
	for range 64 {
		parent := s.parent(p.PID)
		// The same range, and not the same type: QEMU and its helpers differ in type.
		i := slices.IndexFunc(seen, func(o labels.Process) bool { return o.PID == parent && o.Label.Range == p.Label.Range })
		if i < 0 {
			break
		}
		p = seen[i]
	}
	return p.PID
}

// parent is a process's, 0 if not known.
func (s *site) parent(pid int) int {
	n, err := strconv.Atoi(s.status(pid, "PPid"))
	if err != nil {
		return 0
	}
	return n
}

// status is a line of a process's, empty if not known.
func (s *site) status(pid int, name string) string {
	_, rest, _ := strings.Cut(s.procText(pid, "status"), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// procText is empty for a process that has ended, which is no error in a look.
func (s *site) procText(pid int, file string) string {
	text, err := os.ReadFile(s.path("proc", strconv.Itoa(pid), file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// tenant reads from a process's cgroups whose it is and which engine's. Containers of one pod are
// one tenant. The longest of a process's cgroups is the most specific: hybrid hosts have one line
// for each hierarchy.
func tenant(cgroups string) (name, engine string) {
	longest := ""
	for line := range strings.Lines(cgroups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && len(fields[2]) > len(longest) {
			longest = fields[2]
		}
	}
	parts := strings.Split(strings.Trim(longest, "/"), "/")
	name = parts[len(parts)-1]
	// A pod's containers share its level on purpose, so the pod is the tenant.
	for _, part := range parts {
		switch {
		// kubelet's cgroupfs driver has podUID, its systemd driver kubepods-podUID.slice.
		case strings.Contains(longest, "kubepods") && (strings.HasPrefix(part, "pod") || strings.Contains(part, "-pod")),
			strings.Contains(part, "libpod_pod"), strings.HasPrefix(part, "machine-qemu"):
			return part, engineOf(longest)
		case strings.HasSuffix(part, ".scope"):
			name = part
		}
	}
	return name, engineOf(longest)
}

// engineOf knows engines by words in a cgroup's path. The order matters: a Kubernetes pod of CRI-O
// has both marks.
func engineOf(cgroup string) string {
	for _, e := range []struct{ mark, name string }{
		{"machine-qemu", "libvirt"},
		{"libpod", "podman"},
		{"crio", "cri-o"},
		{"kubepods", "kubernetes"},
		{"docker", "docker"},
		{"lxc", "lxc"},
	} {
		if strings.Contains(cgroup, e.mark) {
			return e.name
		}
	}
	return "?"
}

// levels gathers by level. Only a single level with categories is a tenant's: ranges are daemons'
// and users'. Two tenants at one level, or one whose categories contain the other's, can reach each
// other's files.
func levels(processes []labelled, entries []mcs.Entry, uses []relabel.Use) []held {
	table := map[labels.Level]*held{}
	at := func(l labels.Level) *held {
		if table[l] == nil {
			table[l] = &held{Level: l, Tenants: []string{}, Processes: []int{}}
		}
		return table[l]
	}
	for _, e := range entries {
		h := at(e.Level)
		h.Kind, h.Share = e.Kind, e.Share
		for _, holder := range e.Holders {
			h.Holders = append(h.Holders, holder.Sandbox)
		}
	}
	for _, p := range processes {
		level, single := p.Label.Range.Single()
		if !single || level.Categories.Len() == 0 {
			// A level without categories is the host's own.
			continue
		}
		h := at(level)
		h.Processes = append(h.Processes, p.PID)
		if !slices.Contains(h.Tenants, p.Tenant) {
			h.Tenants = append(h.Tenants, p.Tenant)
		}
	}
	for _, u := range uses {
		if l, err := labels.Parse(u.Label); err == nil {
			if level, single := l.Range.Single(); single && level.Categories.Len() > 0 {
				at(level).Files = append(at(level).Files, u.Path)
			}
		}
	}
	list := make([]held, 0, len(table))
	for _, h := range table {
		slices.Sort(h.Holders)
		slices.Sort(h.Tenants)
		// Sorted, so that two runs print alike.
		list = append(list, *h)
	}
	slices.SortFunc(list, func(a, b held) int { return cmp.Compare(a.Level.String(), b.Level.String()) })
	return list
}

// clashes says where two tenants can reach each other. A shared level is one that users named
// together on purpose; then several tenants are no clash.
func clashes(list []held) []string {
	var out []string
	for i, h := range list {
		who := h.who()
		if len(who) > 1 && h.Share == "" {
			// Several holders of one level without a name for the group.
			out = append(out, fmt.Sprintf("%s is held by %s", h.Level, strings.Join(who, " and ")))
		}
		for _, other := range list[i+1:] {
			// The same tenants in both: an engine may run one tenant at two levels.
			if h.Level.Clashes(other.Level) && !slices.Equal(who, other.who()) {
				out = append(out, fmt.Sprintf("%s of %s lies within %s of %s", h.Level,
					strings.Join(who, ", "), other.Level, strings.Join(other.who(), ", ")))
			}
		}
	}
	return out
}

// who are the tenants of a level, in the registry and running. Sorted and without repetition, so
// that two of them can be compared.
func (h held) who() []string {
	all := slices.Concat(h.Holders, h.Tenants)
	slices.Sort(all)
	return slices.Compact(all)
}
