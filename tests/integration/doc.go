// SPDX-License-Identifier: Apache-2.0

// Package integration holds what a user of ctr does to a container, as tests against real daemons.
//
// CLOISTER_TEST_RUNTIME names the runtime (default io.containerd.cloister.v2): a test is proved
// against io.containerd.runc.v2 first. CLOISTER_GUEST is the flavour of the guest image.
package integration
