// SPDX-License-Identifier: Apache-2.0

// Package policy is the SELinux policy module's source: it builds the module, installs and removes
// it, says what is installed, and asks the kernel whether the policy keeps pairs apart.
//
// It labels nothing and starts nothing. Functions may be called by anyone at once; Install and
// Remove take the policy store's own lock.
//
// It must not know sandboxes: it is given types, and asks about two pairs whether or not somebody
// holds them. Main types: Store is a host's store of modules, Built is what was compiled for it,
// Kernel is whoever answers for a policy (Selinuxfs for the loaded one, Compiled for a file).
// `cloister policy install` calls Store.Install; each start calls SelfTest for the types that it is
// to use.
package policy
