// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"time"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// SetTime sets the guest's clock by the host's: a host that slept or was stopped has left it behind.
func (s *Sandbox) SetTime(ctx context.Context) error {
	_, err := s.guest.Guest().SetTime(ctx, &guestv1.SetTimeRequest{TimeUnixNano: time.Now().UnixNano()})
	return s.Explain(err)
}
