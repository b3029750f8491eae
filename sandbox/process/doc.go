// SPDX-License-Identifier: Apache-2.0

// Package process is class process: the containers of one sandbox as plain containers on the host,
// under an identity of the same registry and a label of the same policy as machines.
//
// containerd's own task service for runc drives the OCI runtime: states, streams, events and
// statistics are its. This package decides what that service is given: a configuration with the
// sandbox's label, a root file system and volumes that the label fits, and a record of every
// effect. A container starts only after the label that it will run under has been read back from
// its waiting first process. A Service may be used by any number of goroutines.
//
// It must know nothing of machines and of guests. shim/classes makes a Service with New when the
// first container of a shim is of this class, and passes all its calls on. A shim that dies leaves
// the containers running: package recovery takes them back from the record.
package process
