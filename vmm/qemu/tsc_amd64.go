// SPDX-License-Identifier: Apache-2.0

package qemu

// rdtsc reads this processor's time stamp counter.
func rdtsc() uint64
