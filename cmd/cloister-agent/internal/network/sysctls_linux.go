// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	sysctlRoot  = "/proc/sys/net"
	disableIPv6 = "disable_ipv6"
)

// sysctls keeps the settings that the host has asked for. Only what the host changes is written:
// what a workload has set stays.
type sysctls struct {
	links map[string]map[string]setting // by the NIC's address, "" for those of no single link, and by name
}

// setting is one that the host has asked for. before is what it had when the host asked for the
// first time, not what a workload has set since.
type setting struct {
	value  string
	before string // restored when the host no longer asks for value
}

// apply makes the settings of one owner what the host wants. inFile gives the path of a name below
// /proc/sys/net. It stops at the first error: what is set stays noted, so the next call goes on
// from there.
func (s *sysctls) apply(owner string, want map[string]string, inFile func(name string) string) error {
	if s.links == nil {
		s.links = map[string]map[string]setting{}
	}
	have := s.links[owner]
	if have == nil {
		have = map[string]setting{}
		s.links[owner] = have
	}
	for _, name := range inOrder(want, have) {
		value, wanted := want[name]
		old, known := have[name]
		switch {
		// It is in force, or a workload has changed it since: then that is the workload's own.
		case wanted && known && old.value == value:
			continue
		// What the host no longer asks for gets the value back that it had.
		case !wanted:
			value = old.before
		}
		before, err := exchange(inFile(name), value)
		if err != nil {
			return fmt.Errorf("set sysctl net/%s to %s: %w", inFile(name), value, err)
		}
		if !wanted {
			delete(have, name)
			continue
		}
		// The first value counts, also after several changes by the host.
		if known {
			before = old.before
		}
		have[name] = setting{value: value, before: before}
	}
	return nil
}

// forget is for a NIC whose settings the kernel has made the defaults again. It is called when a
// NIC goes to the spare namespace, where the kernel resets it.
func (s *sysctls) forget(owner string) { delete(s.links, owner) }

// inOrder gives the names of both maps, those first that change others when they are written: for
// all before default, the switches before the rest. disable_ipv6 of all changes that of every link,
// and forwarding changes other settings of a link.
func inOrder(want map[string]string, have map[string]setting) []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(want)), maps.Keys(have))
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(path.Dir(a), path.Dir(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	return slices.Compact(names)
}

// rank is the place in the order of writing; lower comes first.
func rank(name string) int {
	if i := slices.Index([]string{disableIPv6, "forwarding"}, path.Base(name)); i >= 0 {
		return i
	}
	return 2
}

// exchange writes a setting and gives its value before. Without IPv6 in the kernel, or on the link,
// there is nothing to switch off. It returns the old value also where nothing had to be written, so
// that it can be restored.
func exchange(name, value string) (before string, err error) {
	// The host is trusted, but a name with ".." would be written as root.
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("not a name below %s: %w", sysctlRoot, errdefs.ErrInvalidArgument)
	}
	file := filepath.Join(sysctlRoot, name)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if path.Base(name) == disableIPv6 && value == "1" {
			return "0", nil
		}
		return "", fmt.Errorf("the guest's kernel does not have it: leave it at its default: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return "", err
	}
	before = strings.TrimSpace(string(data))
	if before == value {
		return before, nil
	}
	return before, os.WriteFile(file, []byte(value), 0)
}

// ofLink gives the path of a link's setting, FOLDER/NAME, below /proc/sys/net. A name such as
// ipv6/conf/accept_ra becomes ipv6/conf/eth0/accept_ra.
func ofLink(link string) func(string) string {
	return func(name string) string { return path.Join(path.Dir(name), link, path.Base(name)) }
}

// withIPv6 gives the settings of a link, with IPv6 switched on where the engine's link has it on,
// whatever a workload has set for links to come: engines switch it on or off themselves. Where it
// is off for all it stays so.
func withIPv6(want *guestv1.Link) (map[string]string, error) {
	const all, own = "ipv6/conf/all/" + disableIPv6, "ipv6/conf/" + disableIPv6
	settings := want.GetSysctls()
	if _, ok := settings[own]; ok {
		// The engine has said what it wants for this link.
		return settings, nil
	}
	data, err := os.ReadFile(filepath.Join(sysctlRoot, all))
	if errors.Is(err, fs.ErrNotExist) {
		return settings, nil
	}
	if strings.TrimSpace(string(data)) == "1" {
		return settings, err
	}
	// The request's map is not changed: the caller still has it.
	settings = maps.Clone(settings)
	if settings == nil {
		settings = map[string]string{}
	}
	settings[own] = "0"
	return settings, err
}

// hasIPv6 is false where a sysctl of the engine or of the workload has switched IPv6 off, or the
// MTU is too small for it. No file means no IPv6: the kernel has none, or the MTU is below 1280.
func hasIPv6(link string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(sysctlRoot, "ipv6/conf", link, disableIPv6))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.TrimSpace(string(data)) == "0", err
}
