// SPDX-License-Identifier: Apache-2.0

// Package containers knows which containers the host has prepared and which
// of them have a task, so that the two services of the agent agree.
package containers
