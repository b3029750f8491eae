// SPDX-License-Identifier: Apache-2.0

// Package host finds out what a plan needs to know of this host: guest image, accelerator, programs
// and cgroups.
//
// It starts nothing and changes nothing but the list of images whose digests were verified.
// Functions may be called at once.
package host
