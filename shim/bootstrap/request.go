// SPDX-License-Identifier: Apache-2.0

package bootstrap

import "time"

// Request is what containerd says about itself and the task in every invocation. It does not change
// once the process has begun its work.
type Request struct {
	ID        string // the task's id, checked
	Namespace string // containerd's namespace, checked
	Bundle    string // absolute path of the bundle
	Debug     bool   // containerd logs at debug level

	GRPCAddress      string // containerd's API socket
	TTRPCAddress     string // where events go; may be empty when started by hand
	ContainerdBinary string // containerd's own executable
}

// Exit is the answer of delete: how a task ended. containerd publishes it if the daemon did not.
type Exit struct {
	Pid    uint32
	Status uint32
	At     time.Time
}
