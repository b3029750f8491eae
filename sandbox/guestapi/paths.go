// SPDX-License-Identifier: Apache-2.0

package guestapi

import "path"

// Folders of the guest. Host and agent agree on them: a path in a container's spec is one of the
// guest's.
const (
	// Share is where the guest mounts the sandbox's share.
	Share = "/run/cloister/share"
	// Bundles holds one folder per container, its bundle.
	Bundles = "/run/cloister/c"
	// Namespaces holds the namespaces that containers join: user, net, ipc, uts, pid.
	Namespaces = "/run/cloister/ns"
)

// Folders of the share. The guest can change neither them nor their names: only what the host
// mounts there is writable.
const (
	// ShareContainers holds one folder per container.
	ShareContainers = "c"
	// ShareVolumes holds the volumes, each of them once, however many containers have it.
	ShareVolumes = "v"
)

// ShareContainer is a container's folder in the share, relative to its top.
func ShareContainer(id string) string { return path.Join(ShareContainers, id) }

// ShareRootfs is where the share has a container's root file system, relative to its top.
func ShareRootfs(id string) string { return path.Join(ShareContainers, id, "rootfs") }

// ShareVolume is where the share has the volume of that name, relative to its top.
func ShareVolume(name string) string { return path.Join(ShareVolumes, name) }

// Bundle is a container's folder in the guest.
func Bundle(id string) string { return path.Join(Bundles, id) }

// Namespace is the path of a namespace of that kind in the guest.
func Namespace(kind string) string { return path.Join(Namespaces, kind) }
