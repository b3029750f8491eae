// SPDX-License-Identifier: Apache-2.0

// Package packages holds the life of the Debian packages on a fresh Debian 12 and 13 with systemd:
// installed, used, upgraded under a running sandbox, removed, purged.
//
// Each Debian is a throwaway machine (tests/hostmachine) whose root comes from debootstrap. The
// packages of an earlier commit are installed first, so the same run shows what docs/packages.md
// says of versions that run beside each other. life.sh is what happens in the machine.
package packages
