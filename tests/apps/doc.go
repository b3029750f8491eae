// SPDX-License-Identifier: Apache-2.0

// Package apps runs real programs of Debian under runc and under cloister, and compares what their
// users see: databases that are killed and recover, git, package managers, servers, builds and
// watchers.
//
// All containers have the same root, made by debootstrap and kept in the cache, below an overlay of
// their own.
package apps
