// SPDX-License-Identifier: Apache-2.0

// Package docker tests what a user of Docker does: a real dockerd of today in a private place, its
// command line, and cloister as its runtime, by the shim's name and by an entry of daemon.json.
package docker
