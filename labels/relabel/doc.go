// SPDX-License-Identifier: Apache-2.0

// Package relabel applies a list of file labels and gives back what was; it remembers across
// crashes and reboots.
//
// Every change is written to a journal first. Files are reached by descriptor and never through a
// link. Two sandboxes that use one file are counted: neither can cut the other off, and the last
// one to leave puts the old label back. It must not know what the files are for. Every method may
// be called at once, in as many processes as there are.
//
// Main types: Journal is the folder on disk, Item is what is to be labelled, Report is what could
// not be or was left alone. A caller opens the Journal and calls Replay before anything is labelled
// and before a level is given out. Then it calls Apply for each sandbox, and Restore when the
// sandbox's processes have ended; only then is its level released. After a crash the next process
// does both: Pending tells the registry which levels it must not reclaim before.
//
// On disk there is one folder per sandbox (its head, and one note per file that it holds) and one
// record per labelled file, with the label that it had. A note is written before the record, the
// record before the label, and removed in the opposite order: whatever a crash cuts off, the note
// leads to it.
package relabel
