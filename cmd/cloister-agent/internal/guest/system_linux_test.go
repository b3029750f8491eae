// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSysctlPath(t *testing.T) {
	for in, want := range map[string]string{
		"kernel.shmmax":                  "/proc/sys/kernel/shmmax",
		"net.ipv4.conf.eth0/1.rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net/ipv4/conf/eth0.1/rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"":                               "",
		"../x":                           "",
		"/etc/passwd":                    "",
		"a//..//..//b/":                  "",
	} {
		got, err := sysctlPath(in)
		if got != want || (want == "") != errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("sysctlPath(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4.ip_forward")
	f.Add("....//etc")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := sysctlPath(in)
		if err == nil && (!strings.HasPrefix(got, sysctlRoot) || got != filepath.Clean(got)) {
			t.Errorf("sysctlPath(%q) = %q", in, got)
		}
	})
}

func TestMemory(t *testing.T) {
	used, err := MemUsedKiB()
	if err != nil || used == 0 {
		t.Errorf("MemUsedKiB = %d, %v", used, err)
	}
	m, err := memoryInfo()
	if err != nil || m.GetTotalKib() < m.GetAvailableKib() || m.GetAgentRssKib() == 0 {
		t.Errorf("memoryInfo = %v, %v", m, err)
	}
}
