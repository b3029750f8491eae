// SPDX-License-Identifier: Apache-2.0

// Command cloister-node puts cloister on a node of a Kubernetes cluster, and takes it back. It runs
// in a privileged container that sees the node's process 1: files go through that process's root,
// commands run in its mount namespace.
//
// What is done twice changes nothing, and a run that was killed is finished by the next one. A step
// that fails leaves the node without the label that pods of the runtime class ask for.
//
// It must not know how cloister works: it calls the cloister command of the version that it has
// installed. Its types are node, which has the steps, and api, which labels the node.
package main
