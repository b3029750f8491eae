// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"cmp"
	"encoding/json"
)

// Status is the container's state as a hook is told it.
type Status string

// The states in which hooks run.
const (
	Creating Status = "creating" // prestart, createRuntime
	Running  Status = "running"  // poststart
	Stopped  Status = "stopped"  // poststop
)

// specVersion is the version of the state's form.
const specVersion = "1.3.0"

// State is what a hook reads on its standard input (runtime-spec, runtime.md). Pid is QEMU's in
// class vm: Docker 20.10's hook finds the network namespace by it.
type State struct {
	Version     string            `json:"ociVersion"` // empty: the newest known
	ID          string            `json:"id"`
	Status      Status            `json:"status"`
	Pid         int               `json:"pid,omitempty"` // on the host
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// json is what goes to a hook's standard input.
func (s State) json() ([]byte, error) {
	s.Version = cmp.Or(s.Version, specVersion)
	return json.Marshal(s)
}
