// SPDX-License-Identifier: Apache-2.0

// Package attacks has programs that stand for a QEMU and a file server, which a guest has taken
// over, attack the host and each other. It needs no guest and no mandatory access control: what it
// shows holds on every host.
package attacks
