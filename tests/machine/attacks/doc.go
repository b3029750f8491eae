// SPDX-License-Identifier: Apache-2.0

// Package attacks has a program of an attacker's in QEMU's jail attack the host. It needs no
// guest and no mandatory access control: what it shows holds on every host.
package attacks
