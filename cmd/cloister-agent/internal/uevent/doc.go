// SPDX-License-Identifier: Apache-2.0

// Package uevent waits for the kernel to tell of a device.
//
// It reports only that something happened; who waits looks in sysfs for what it needs. So a lost
// event costs a look and nothing else. It must not know which devices there are.
package uevent
