// SPDX-License-Identifier: Apache-2.0

// Package flock takes a lock that the kernel gives back when its holder dies.
package flock
