// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"strconv"

	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
)

// rootfsSteps is what the guest does for a container's root file system; luns are those of its
// disks. The prefixes of a source are the contract's (guestapi): share: a path of the share, lun: a
// disk, ctr: a place in the guest's bundle.
func rootfsSteps(c plan.Container, luns []int) []*guestv1.MountStep {
	if len(luns) == 0 {
		return []*guestv1.MountStep{{Type: "bind", Source: "share:" + guestapi.ShareRootfs(c.ID), Target: "rootfs"}}
	}
	steps := make([]*guestv1.MountStep, 0, len(c.Rootfs.Guest))
	for _, step := range c.Rootfs.Guest {
		source := step.Source
		switch {
		case step.OnDisk:
			source = "lun:" + strconv.Itoa(luns[step.Disk])
		case step.Type == "bind":
			source = "ctr:" + source
		}
		steps = append(steps, &guestv1.MountStep{Type: step.Type, Source: source, Target: step.Target, Options: step.Options})
	}
	return steps
}

// watchedStep has the agent and the container have a watched volume from one mount: each mount of
// the guest's kernel has inodes, and events, of its own.
func watchedStep(v plan.Volume, name string) *guestv1.MountStep {
	return &guestv1.MountStep{Type: "bind", Source: "share:" + guestapi.ShareVolume(name), Target: v.WatchedTarget()}
}

// socketStep has the guest listen as the host's socket would, with its mode and its owners in the
// container. The token is the stream's name and the only right to connect: a container cannot ask
// for another container's socket.
func socketStep(s plan.HostSocket) *guestv1.MountStep {
	return &guestv1.MountStep{
		Type: "socket", Source: "token:" + s.Token, Target: s.Path,
		Options: []string{fmt.Sprintf("mode=%o", s.Mode), fmt.Sprintf("uid=%d", s.UID), fmt.Sprintf("gid=%d", s.GID)},
	}
}

// copiedMode is the mode of a copied file in the guest. Engines give these files 0644, and programs
// of all users read them.
const copiedMode = 0o644

// fileOf is a copied file as the guest writes it.
func fileOf(c *content.Copied) *guestv1.File {
	return &guestv1.File{Path: c.Path, Mode: copiedMode, Data: c.Data}
}
