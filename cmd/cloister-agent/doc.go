// SPDX-License-Identifier: Apache-2.0

// Command cloister-agent is process 1 of the guest; helpers in an internal folder of its own.
//
// It prepares the guest, opens the virtio-serial port, says hello and serves the contract of
// sandbox/guestapi on it: containerd's Task API, driven by containerd's own runc-shim packages with
// crun, and the Guest service. When the port hangs up, it powers the guest off.
//
// It must not know the host, except for that port and the virtiofs share: it reads no path of the
// host and decides nothing. A guest that has been taken over can replace the agent, so the host
// trusts nothing that it says.
//
// "cloister-agent pause" is process 1 of a pod's shared pid namespace. The kernel starts the agent
// as its modprobe when a container needs a module. "cloister-agent --version" prints the version
// for the build of an image.
package main
