// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/crun"
	"cloister/sandbox/network"
	"cloister/sandbox/statedir"
)

// Found lists what this host shows of a sandbox whose shim is dead, as effects, oldest first. It
// takes the place of a record that cannot be read: processes carry the sandbox's mark, cgroups its
// name, namespaces a claim, registry and relabel journal its name. Mounts end with the processes.
// Whatever another sandbox's record names is left out: better a leftover than somebody's machine.
// It changes nothing.
func (h Host) Found(dir statedir.Dir) ([]statedir.Effect, error) {
	processes, err := statedir.Marked(dir.Marker())
	if err != nil {
		return nil, err
	}
	kept, err := h.keptByOthers(dir)
	if err != nil {
		return nil, err
	}
	// Oldest first is the order of a start: the identity is given back last, when nothing runs
	// under it any more.
	effects, err := h.foundIdentity(dir)
	if err != nil {
		return nil, err
	}
	groups, err := cgroup.Find(string(dir.ID()))
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		pids, err := g.Pids()
		if err != nil {
			return nil, err
		}
		// Another sandbox of the same name, in another engine, may live in it.
		if !kept[g.String()] && ours(g, pids, dir) {
			effects = append(effects, statedir.Effect{Kind: statedir.KindCgroup, Path: g.String()})
		}
	}
	links, err := foundLinks(dir, kept)
	if err != nil {
		return nil, err
	}
	effects = append(effects, links...)
	containers, err := foundContainers(dir)
	if err != nil {
		return nil, err
	}
	effects = append(effects, containers...)
	for _, p := range processes {
		effects = append(effects, statedir.Effect{Kind: statedir.KindProcess, Path: program(p.PID), Process: p})
	}
	return effects, nil
}

// maxChosen is the longest id that people choose; engines draw longer ones, which are unique.
const maxChosen = 31

// ours reports whether a cgroup of the sandbox's name is the sandbox's. Nobody else names one
// cloister-ID, but another sandbox of that id may. One that has the bare id as its name is ours for
// its processes, all of which carry the mark; an empty one for an id that is unique, or in a parent
// that is named after the engine's namespace, as containerd's clients name it. Killing the wrong
// group kills somebody's machine, so a doubt says no.
func ours(g *cgroup.Group, pids []int, dir statedir.Dir) bool {
	bare := filepath.Base(g.String()) == string(dir.ID())
	for _, pid := range pids {
		mark := statedir.Mark(pid)
		if mark != dir.String() && (bare || mark != "") {
			return false
		}
	}
	return !bare || len(pids) > 0 || len(dir.ID()) > maxChosen || filepath.Base(filepath.Dir(g.String())) == string(dir.Namespace())
}

// program names a sandbox's process as its record would. It is for people: the record's list of
// effects is what inspect shows.
func program(pid int) string {
	name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if strings.HasPrefix(string(name), "virtiofsd") {
		return "virtiofsd"
	}
	return "qemu"
}

// foundContainers are those that the OCI runtime keeps for a sandbox of class process.
func foundContainers(dir statedir.Dir) ([]statedir.Effect, error) {
	root := filepath.Join(dir.RuntimeRoot(), string(dir.Namespace()))
	ids, err := crun.List(root)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	runtime, err := crun.Find("")
	if err != nil {
		return nil, err
	}
	var out []statedir.Effect
	for _, id := range ids {
		out = append(out, statedir.Effect{Kind: statedir.KindContainer, Path: filepath.Join(root, id), Detail: runtime})
	}
	return out, nil
}

// foundIdentity is what registry and journal have of the sandbox.
func (h Host) foundIdentity(dir statedir.Dir) ([]statedir.Effect, error) {
	owner := string(dir.Namespace()) + "/" + string(dir.ID())
	held, err := confine.Held(h.Labels, h.Root, owner)
	if err != nil || !held {
		return nil, err
	}
	return []statedir.Effect{{Kind: statedir.KindReservation, Detail: owner}}, nil
}

// foundLinks are the claimed namespaces in which no other sandbox is. The range of ports before the
// claim is lost with the record, so the namespace gets the kernel's default.
func foundLinks(dir statedir.Dir, kept map[string]bool) ([]statedir.Effect, error) {
	claims, err := network.Claims()
	if err != nil || len(claims) == 0 {
		return nil, err
	}
	others, err := statedir.MarkedOthers(dir)
	if err != nil {
		return nil, err
	}
	var out []statedir.Effect
	for _, c := range claims {
		if !kept[c.Identity] && !slices.ContainsFunc(others, func(pid int) bool { return network.InNamespace(pid, c.Identity) }) {
			out = append(out, statedir.Effect{Kind: statedir.KindLink, Path: c.Path, Detail: c.Identity + "\t" + network.DefaultPorts})
		}
	}
	return out, nil
}

// keptByOthers are the cgroups and namespaces that the readable records of other sandboxes name. It
// is what a cleanup must not touch, whatever else the host shows.
func (h Host) keptByOthers(dir statedir.Dir) (map[string]bool, error) {
	dirs, err := statedir.List(h.State)
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, other := range dirs {
		if other == dir {
			continue
		}
		r, err := statedir.Load(other)
		if err != nil {
			continue // going, or to be found by itself
		}
		for _, e := range r.Effects {
			switch e.Kind {
			case statedir.KindCgroup:
				kept[e.Path] = true
			case statedir.KindLink:
				identity, _, _ := strings.Cut(e.Detail, "\t")
				kept[identity] = true
			default: // no other kind lies in a shared place
			}
		}
	}
	return kept, nil
}
