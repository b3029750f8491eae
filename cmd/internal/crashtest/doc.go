// SPDX-License-Identifier: Apache-2.0

// Package crashtest lets a test kill a program at any step of what it does to the host.
//
// Without the build tag crashtest it does nothing. It must know nothing of what the steps are.
package crashtest
