// SPDX-License-Identifier: Apache-2.0

// Package plan is pure: host facts, workload and label become everything the
// sandbox will do.
//
// Nothing here opens a file or asks the host; what it needs to know comes in as
// values, so that each plan can be read in testdata. Functions may be called at
// once.
package plan
