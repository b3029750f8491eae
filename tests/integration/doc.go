// SPDX-License-Identifier: Apache-2.0

// Package integration holds what a user of ctr does to a container, as tests against real daemons.
//
// CLOISTER_TEST_RUNTIME names the runtime (default io.containerd.cloister.v2): a test is proved
// against io.containerd.runc.v2 first. So a test that asks for what only a guest has says so by
// isCloister. CLOISTER_TEST_CLASS=process has the same tests run plain containers. CLOISTER_GUEST
// is the flavour of the guest image.
//
// Each test has a containerd of its own and looks for what was left behind at its end.
package integration
