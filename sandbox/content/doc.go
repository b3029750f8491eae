// SPDX-License-Identifier: Apache-2.0

// Package content turns the mounts of a plan into descriptors and mounts, and takes them back: root
// file systems, volumes, copied files, sockets of the host, watched folders, disks.
//
// A name that an engine or a user gives is resolved once, when the file is opened. From then on the
// file is used by its descriptor: for its kind, label, owners and mount. What the guest can change
// is never resolved by name on the host.
//
// It must know nothing of machines, of the guest's Task API or of the record on disk. Functions may
// be called at once unless they say otherwise.
//
// A start calls Open, then OpenRootfs, and gives what was found to package plan. NewShare makes the
// tree that the file server shows; Share.MountRootfs and Volumes.Add fill it from the plan and the
// Files. What they have done goes with RemoveContainer, Use.Release and Close, or with the mount
// namespace when the shim dies.
package content
