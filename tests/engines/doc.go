// SPDX-License-Identifier: Apache-2.0

// Package engines proves the OCI command line with the engines that call one: conmon, Podman,
// containerd's shim for runc and buildah, each as its distribution builds it, and BuildKit, each in
// a place of its own.
package engines
