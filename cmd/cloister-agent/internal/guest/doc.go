// SPDX-License-Identifier: Apache-2.0

// Package guest is the Guest service: what a guest is told beyond containerd's
// Task API.
package guest
