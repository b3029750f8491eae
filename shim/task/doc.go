// SPDX-License-Identifier: Apache-2.0

// Package task is containerd's task service: it decodes requests into the runtime's values and
// encodes the answers.
//
// It decides nothing: states, order and cleaning up are the runtime's. Service is the service,
// Runtime what it needs of package runtime, which a test replaces. A Service may be used by any
// number of goroutines.
package task
