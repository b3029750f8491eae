// SPDX-License-Identifier: Apache-2.0

// Package tally counts what happened to all sandboxes of a host, in one small file beside their
// records: starts, failures by phase and reason, how long each phase of a start took. The size of
// the file is bounded.
//
// Many shims count at once; a lock orders them. No sandbox fails because it was not counted: a lock
// that stays held and a file that cannot be written are errors for the log. The file is lost at a
// reboot, as the records are, and counting starts at zero.
package tally
