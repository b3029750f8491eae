// SPDX-License-Identifier: Apache-2.0

// Package guest is the Guest service: what the host does in a guest beyond containerd's Task API.
//
// It configures the guest, prepares and removes containers, reports memory, and ends the guest. It
// must not know tasks: what it shares with them is the table of package containers. Service is safe
// for concurrent use; changes of the guest as a whole run one at a time.
package guest
