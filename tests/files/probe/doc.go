// SPDX-License-Identifier: Apache-2.0

// Command probe tells how files behave below a folder: a table of small cases, each in a fresh
// folder of its own, one line "name<TAB>result" each. A result is what a program sees - error
// names, sizes, modes - and holds nothing that differs from one run to the next, so that two places
// can be compared.
//
// It is one static program, since it runs in containers; it is its own second process where a case
// needs one.
package main
