// SPDX-License-Identifier: Apache-2.0

// Package containers knows which containers the host has prepared and which of them have a task, so
// that the two services of the agent agree.
//
// The Guest service prepares and removes; the Task service makes and deletes tasks in between. It
// must not know how either is done. Table and Volumes are safe for concurrent use.
package containers
