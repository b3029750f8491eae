// SPDX-License-Identifier: Apache-2.0

// Package stamp has what the linker stamps into the programs. It must not import anything: each
// program has it.
package stamp

// Version is the release, set by the linker (.ci/build). It is in answers of every program of the
// host and in man pages; tests have "dev". The agent has a version of its own.
var Version = "dev" //nolint:gochecknoglobals // -ldflags -X needs a variable
