// SPDX-License-Identifier: Apache-2.0

// Command cloister-agent stands for the guest's first process, and ends at once: the kernel of its
// guest panics.
package main

func main() {}
