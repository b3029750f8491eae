// SPDX-License-Identifier: Apache-2.0

// Package guestimage builds kernel + initial image for the guest from the
// distribution's packages, and opens what was built.
//
// Same inputs give the same bytes: the archive is sorted and has no times, the
// kernel's build has a fixed date and names. Build writes into a folder of its
// own and swaps it in at the end, so a reader sees an old image or a new one.
//
// It must not know what labels, containers or the contract with the guest are:
// the agent is one binary to it. Every function may be called at once with
// others; builders of one kernel wait for each other.
//
// Main types: Options say what Build makes and from what, Image is one image on disk, Manifest what
// is in it. `cloister guest build` and `cloister guest update` call Build; a start calls Open and
// VerifyOnce, and gives the paths of kernel and initial image to QEMU; `cloister check` asks
// Manifest.Newer.
package guestimage
