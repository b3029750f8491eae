// SPDX-License-Identifier: Apache-2.0

// Package policy is the SELinux policy module's source, and what Landlock and AppArmor get instead:
// it builds the module, installs and removes it, says what is installed, and asks the kernel
// whether the policy keeps pairs apart.
//
// It labels nothing and starts nothing. Functions may be called by anyone at once; Install and
// Remove take the policy store's own lock.
package policy
