// SPDX-License-Identifier: Apache-2.0

// Package uevent waits for the kernel to tell of a device.
package uevent
