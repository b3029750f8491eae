// SPDX-License-Identifier: Apache-2.0

// Package apparmor is the kernel's side of AppArmor: it renders, loads and removes the profile
// of a sandbox, has a program start in it, and reads back what confines a process.
//
// A sandbox has one profile, named by its pair of categories. The profile holds a child for
// each program of the sandbox, so that all of them are loaded and removed at once. The package
// must not know containers, and never decides which sandbox gets which pair: that is
// labels/mcs. Its functions may be called at once.
package apparmor
