// SPDX-License-Identifier: Apache-2.0

// Package testenv says what a test needs of the machine it runs on: what is absent skips the test,
// or fails it when the environment variable REQUIRE names it.
//
// REQUIRE is a list of names split by commas: those of the constants and of programs, or "all"; a
// name after "-" is taken out of it. It must know nothing of what is tested. Every function may be
// called at once from several tests.
package testenv
