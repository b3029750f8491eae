// SPDX-License-Identifier: Apache-2.0

// Package stages decides in which order the stages of the tests run, and what their output means.
//
// A stage is a value: adding one is adding a value to All. Everything here is pure: the command
// tests/stages/run starts processes, reads clocks and keeps files. Functions may be called at once.
package stages
