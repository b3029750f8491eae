// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"time"
)

// SettleWithin is Settle with another pause and limit.
func (i *IO) SettleWithin(ctx context.Context, pause, limit time.Duration) {
	i.settle(ctx, pause, limit)
}
