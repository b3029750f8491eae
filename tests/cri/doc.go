// SPDX-License-Identifier: Apache-2.0

// Package cri tests pods as a kubelet sees them: a real containerd, spoken to in CRI's own words,
// in each way that containerd has of making a pod's sandbox: a pause container (podsandbox), or the
// Sandbox API (shim).
//
// Its parts are one life of a pod (pods), limits, recovery, user namespaces, upgrades, the
// installer of a node, and containerd's own CRI suite, which is compared with expected.tsv case by
// case.
package cri
