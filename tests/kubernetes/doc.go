// SPDX-License-Identifier: Apache-2.0

// Package kubernetes runs a whole cluster of one node in a private place: etcd, the control plane,
// a kubelet, kube-proxy and containerd. Its tests see what a user of kubectl sees.
//
// All tests share the cluster; each has a namespace of its own.
package kubernetes
