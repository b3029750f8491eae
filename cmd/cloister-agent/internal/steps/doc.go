// SPDX-License-Identifier: Apache-2.0

// Package steps mounts what a container needs below its folder, and takes it away. Paths are
// resolved inside their root: the folder or the share.
//
// Names below a root may be the workload's, and change at any moment. So each path is opened once
// with openat2, and what follows uses the descriptor. The package must not know why a step is
// there. It keeps no state; steps of one container are done by one goroutine.
package steps
