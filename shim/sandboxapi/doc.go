// SPDX-License-Identifier: Apache-2.0

// Package sandboxapi is containerd's sandbox service: pods whose sandbox is the shim's own and no
// container with a pause image.
//
// It decodes what CRI says of a pod and decides nothing: states and cleaning up are the runtime's.
//
// Service is its one type: it is registered beside the task service, and its calls go to the same
// Runtime. It may be used by any number of goroutines.
package sandboxapi
