// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEachStatusFieldIsCompared changes one field at a time of a status that fits.
func TestEachStatusFieldIsCompared(t *testing.T) {
	own, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	inherited, err := strconv.Atoi(statusOf(own)["Seccomp_filters"])
	if err != nil {
		t.Fatal(err)
	}
	kept, bounding, more := NewSet(unix.CAP_CHOWN), NewSet(unix.CAP_CHOWN, unix.CAP_SETPCAP), NewSet(unix.CAP_SYS_ADMIN)
	j := Jail{
		Owner: Owner{ID: 7, Groups: []uint32{8, 9}}, Bounding: &bounding, Kept: &kept, NoNewPrivs: true,
		Calls: &Calls{OwnFilters: 1},
	}
	sets := []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
	first := map[string]string{
		"Tgid": "5", "Pid": "5", "Uid": "7\t7\t7\t7", "Gid": "7\t7\t7\t7", "Groups": "8 9",
		"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": strconv.Itoa(inherited + 2),
	}
	other := maps.Clone(first)
	other["Pid"], other["Seccomp_filters"] = "6", strconv.Itoa(inherited+1)
	for _, name := range sets {
		first[name], other[name] = kept.String(), bounding.String()
	}
	check := func(thread map[string]string, name, value string) error {
		thread = maps.Clone(thread)
		thread[name] = value
		var text strings.Builder
		for name, value := range thread {
			fmt.Fprintf(&text, "%s:\t%s\n", name, value)
		}
		return j.checkStatus([]byte(text.String()))
	}
	if err := errors.Join(check(first, "Name", "first"), check(other, "Name", "other")); err != nil {
		t.Fatal(err)
	}
	wrong := map[string][]string{
		"Uid":        {"0\t7\t7\t7", "7\t0\t7\t7", "7\t7\t0\t7", "7\t7\t7\t0", ""},
		"Gid":        {"0\t7\t7\t7", "7\t0\t7\t7", "7\t7\t0\t7", "7\t7\t7\t0", ""},
		"Groups":     {"", "8", "8 9 10"},
		"NoNewPrivs": {"0", ""},
		"Seccomp":    {"0", "1", ""},
	}
	for _, name := range sets {
		wrong[name] = []string{(bounding | more).String(), "", "none"}
	}
	for _, tt := range []struct {
		thread  map[string]string
		filters int // one too few
	}{{first, inherited + 1}, {other, inherited}} {
		wrong["Seccomp_filters"] = []string{strconv.Itoa(tt.filters), ""}
		for name, values := range wrong {
			for _, value := range values {
				if err := check(tt.thread, name, value); !errors.Is(err, ErrEscaped) {
					t.Errorf("thread %s with %s %q: checkStatus = %v, want %v", tt.thread["Pid"], name, value, err, ErrEscaped)
				}
			}
		}
	}
	for _, name := range sets {
		if err := check(first, name, bounding.String()); !errors.Is(err, ErrEscaped) {
			t.Errorf("first thread that has given nothing up of %s: checkStatus = %v, want %v", name, err, ErrEscaped)
		}
	}
}
