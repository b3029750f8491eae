// SPDX-License-Identifier: Apache-2.0

// Package recovery takes back what sandboxes left whose shims are dead.
//
// It works from the record of the sandbox. If the record cannot be read, it looks on the host for
// what carries the sandbox's mark or name. It never touches a sandbox whose shim lives. Functions
// may be called at once.
//
// It must not need the configuration that the sandbox was started with beyond Host, because that
// may have changed or be broken since. Effects are taken back newest first; what fails stays in the
// record, and calling again is always safe.
package recovery
