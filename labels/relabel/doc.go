// SPDX-License-Identifier: Apache-2.0

// Package relabel applies a list of file labels and gives back what was; it remembers across
// crashes and reboots.
//
// Every change is written to a journal first. Files are reached by descriptor and never through a
// link. Two sandboxes that use one file are counted: neither can cut the other off, and the last
// one to leave puts the old label back. It must not know what the files are for. Every method may
// be called at once, in as many processes as there are.
package relabel
