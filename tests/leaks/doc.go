// SPDX-License-Identifier: Apache-2.0

// Package leaks lists what sandboxes leave on a host: processes, mounts and mount namespaces,
// links, network namespaces, sockets, cgroups, files and reservations.
//
// Two lists are compared: one from before, one from after. It knows of cloister only where its
// levels are registered.
package leaks
