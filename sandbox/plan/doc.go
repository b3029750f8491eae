// SPDX-License-Identifier: Apache-2.0

// Package plan is pure: host facts, workload and label become everything the
// sandbox will do.
//
// Nothing here opens a file or asks the host; what it needs to know comes in as
// values, so that each plan can be read in testdata. Functions may be called at
// once.
//
// NewSandbox plans a sandbox and NewContainer each of its containers; what follows carries the
// values out and decides nothing again. It must not import os, net or time, and builds on other
// systems than Linux. Errors name the field of the workload or of the configuration that cannot be
// honoured, and the remedy.
package plan
