// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"testing"
	"time"
)

// plain measures whole lives of plain containers beside runc's, in pairs. Who comes first changes
// from pair to pair, and the first pair warms caches.
func (b *bench) plain(t *testing.T) {
	plain := *b.Bed
	plain.Runtime = "io.containerd.cloister-process.v2"
	for i := range b.runs + 1 {
		ours := func() time.Duration {
			return took(t, &plain, plain.Args(fmt.Sprint("plain", i), []string{"--rm"}, "true")...)
		}
		theirs := func() time.Duration {
			return took(t, &b.runc, b.runc.Args(fmt.Sprint("plain", i, "r"), []string{"--rm"}, "true")...)
		}
		var one, two time.Duration
		if i%2 == 0 {
			one = ours()
			two = theirs()
		} else {
			two = theirs()
			one = ours()
		}
		if i > 0 {
			b.add("plain", one)
			b.add("plain runc", two)
		}
	}
}
