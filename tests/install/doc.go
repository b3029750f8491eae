// SPDX-License-Identifier: Apache-2.0

// Package install runs the script behind make install in a tree of stand-ins.
package install
