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

type setting struct {
	value  string
	before string // restored when the host no longer asks for value
}

// apply makes the settings of one owner what the host wants. inFile gives the path of a name below
// /proc/sys/net.
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
		case wanted && known && old.value == value:
			continue
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
		if known {
			before = old.before
		}
		have[name] = setting{value: value, before: before}
	}
	return nil
}

// forget is for a NIC whose settings the kernel has made the defaults again.
func (s *sysctls) forget(owner string) { delete(s.links, owner) }

// inOrder gives the names of both maps, those first that change others when they are written: for
// all before default, the switches before the rest.
func inOrder(want map[string]string, have map[string]setting) []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(want)), maps.Keys(have))
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(path.Dir(a), path.Dir(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	return slices.Compact(names)
}

func rank(name string) int {
	if i := slices.Index([]string{disableIPv6, "forwarding"}, path.Base(name)); i >= 0 {
		return i
	}
	return 2
}

// exchange writes a setting and gives its value before. Without IPv6 in the kernel, or on the link,
// there is nothing to switch off.
func exchange(name, value string) (before string, err error) {
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

// ofLink gives the path of a link's setting, FOLDER/NAME, below /proc/sys/net.
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
		return settings, nil
	}
	data, err := os.ReadFile(filepath.Join(sysctlRoot, all))
	if errors.Is(err, fs.ErrNotExist) {
		return settings, nil
	}
	if strings.TrimSpace(string(data)) == "1" {
		return settings, err
	}
	settings = maps.Clone(settings)
	if settings == nil {
		settings = map[string]string{}
	}
	settings[own] = "0"
	return settings, err
}

// hasIPv6 is false where a sysctl of the engine or of the workload has switched IPv6 off, or the
// MTU is too small for it.
func hasIPv6(link string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(sysctlRoot, "ipv6/conf", link, disableIPv6))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.TrimSpace(string(data)) == "0", err
}
