// SPDX-License-Identifier: Apache-2.0

// Package host finds out what a plan needs to know of this host: guest image, accelerator, programs
// and cgroups.
//
// It starts nothing and changes nothing but the list of images whose digests were verified.
// Functions may be called at once.
//
// Find is called for each sandbox and gives plan.Facts; package plan decides by them. A host
// changes while shims live, so nothing is remembered between two calls but the digests.
package host
