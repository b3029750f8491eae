// SPDX-License-Identifier: Apache-2.0

// Package apparmor is the kernel's side of AppArmor: it renders, loads and removes the profile
// of a sandbox, has a program start in it, and reads back what confines a process.
//
// A sandbox has one profile, named by its pair of categories. The profile holds a child for
// each program of a machine, or one for all processes of plain containers, so that all of them are
// loaded and removed at once. The package never decides which sandbox gets which pair: that is
// labels/mcs. Its functions may be called at once.
//
// Main types: Host asks and tells the kernel, Profile is what differs between two sandboxes,
// Journal remembers what is loaded for whom. A caller opens the Journal and calls Replay, then Load
// before it starts the sandbox's programs. Host.SetExec is called on the thread that starts each of
// them, Host.Verify while the guest is stopped. An OCI runtime enters the profile by itself:
// Host.Entered waits for it. Restore follows when the programs have ended. The
// pair is given back after that, since its number is the profile's name.
package apparmor
