// SPDX-License-Identifier: Apache-2.0

// Package bench measures what a guest costs beside runc and beside QEMU alone, all in one run:
// times are of this machine, ratios are what counts.
package bench
