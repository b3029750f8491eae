// SPDX-License-Identifier: Apache-2.0

// Package hostmachine holds what throwaway machines that stand for a host have in common: an
// emulated computer whose own /dev/kvm works. It knows nothing of what runs in one.
package hostmachine
