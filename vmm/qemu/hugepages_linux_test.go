// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestEnoughHugePages(t *testing.T) {
	for _, tt := range []struct {
		memoryMiB, have int
		short           string
	}{{608, 304, ""}, {608, 400, ""}, {607, 304, ""}, {608, 303, "by at least 1 "}, {608, 0, "by at least 304 "}} {
		err := enoughHugePages(tt.memoryMiB, tt.have)
		if (err != nil) != (tt.short != "") || err != nil &&
			(!errors.Is(err, errdefs.ErrResourceExhausted) || !strings.Contains(err.Error(), tt.short)) {
			t.Errorf("%d MiB of %d pages: %v, want %q", tt.memoryMiB, tt.have, err, tt.short)
		}
	}
}
