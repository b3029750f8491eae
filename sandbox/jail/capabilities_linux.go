// SPDX-License-Identifier: Apache-2.0

package jail

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP of linux/securebits.h.
const noSetuidFixup = 1 << 2
