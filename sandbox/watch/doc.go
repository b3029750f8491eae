// SPDX-License-Identifier: Apache-2.0

// Package watch tells which files below a folder of the host are changed.
package watch
