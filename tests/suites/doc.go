// SPDX-License-Identifier: Apache-2.0

// Package suites runs containerd's own test suites and compares what they give with checked-in
// lists of what is expected, for runc and for cloister.
//
// A list is a file of lines "case, runc, cloister, reason", apart by tabs. One list belongs to one
// test at a time.
package suites
