// SPDX-License-Identifier: Apache-2.0

// Command cloister-node puts cloister on a node of a Kubernetes cluster, and takes it back. It runs
// in a privileged container that sees the node's process 1: files go through that process's root,
// commands run in its mount namespace.
//
// What is done twice changes nothing. A step that fails leaves the node without the label that
// pods of the runtime class ask for.
package main
