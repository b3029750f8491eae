// SPDX-License-Identifier: Apache-2.0

// Package oci turns the bytes of an OCI configuration into a checked workload and a workload into
// the guest's own configuration.
//
// It is pure: it opens no file, knows no clock, no machine and no label, and does not log. A field
// that cannot be honoured is an error that names it, all of them at once. Its values may be read by
// any number of goroutines.
//
// Main types: Workload is a checked configuration, Process and Update what Exec and Update calls
// bring, Problem a field that is refused or ignored. A caller parses (Parse for class vm,
// ParseContainer for class process, NewPod for a pod without a configuration), logs
// Workload.Ignored, asks for Size, and then for GuestSpec or ContainerSpec. Nothing that an engine
// sends reaches a guest in any other way.
package oci
