// SPDX-License-Identifier: Apache-2.0

// Package steps mounts what a container needs below its folder, and takes it
// away. Paths are resolved inside their root: the folder or the share.
package steps
