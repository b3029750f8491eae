// SPDX-License-Identifier: Apache-2.0

// Package crash has tests of what goes wrong: processes that are killed, parts that are missing or
// damaged, calls that are illegal, guests that are hostile. After each of them the host must be as
// it was.
//
// Kills happen at steps that the shim itself reports: the tests build it with the tag crashtest, by
// which it also waits at a step (hold) until the test has changed something. CLOISTER_SOAK=1 has
// the tests of load do all of it, instead of a tenth.
package crash
