// SPDX-License-Identifier: Apache-2.0

// Package images builds the test images from the distribution's packages, as archives and in a
// registry on loopback.
//
// The same busybox gives the same bytes. It must know nothing of containerd or of the tests. An
// image may be used at once by several callers.
package images
