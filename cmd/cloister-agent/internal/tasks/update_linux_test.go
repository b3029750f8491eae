// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestComplete(t *testing.T) {
	for _, tt := range []struct {
		quota      int64
		period     uint64
		now        string
		wantQuota  int64
		wantPeriod uint64
		bad        bool
	}{
		{-1, 0, "15000 100000\n", -1, 100000, false},
		{20000, 0, "max 50000\n", 20000, 50000, false},
		{0, 50000, "15000 100000\n", 15000, 50000, false},
		{0, 50000, "max 100000\n", -1, 50000, false},
		{20000, 0, "max\n", 0, 0, true},
		{0, 50000, "lots 100000\n", 0, 0, true},
	} {
		c := &specs.LinuxCPU{Quota: &tt.quota, Period: &tt.period}
		err := complete(c, tt.now)
		if (err != nil) != tt.bad || err == nil && (*c.Quota != tt.wantQuota || *c.Period != tt.wantPeriod) {
			t.Errorf("complete(%d %d, %q) = %d %d, %v, want %d %d", tt.quota, tt.period, tt.now, *c.Quota,
				*c.Period, err, tt.wantQuota, tt.wantPeriod)
		}
	}
}
