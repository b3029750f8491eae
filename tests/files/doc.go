// SPDX-License-Identifier: Apache-2.0

// Package files compares how files behave in a guest with how they behave under runc, on the same
// kinds of place, and tests what engines do with volumes.
//
// probe is the program that looks; differences.tsv is every difference there may be, each with its
// reason. A difference that is not in it fails, and so does one in it that is not seen. See
// README.md.
package files
