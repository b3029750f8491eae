// SPDX-License-Identifier: Apache-2.0

// Package cri tests pods as a kubelet sees them: a real containerd, spoken to in CRI's own words,
// in each way that containerd has of making a pod's sandbox.
package cri
