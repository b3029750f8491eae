// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"errors"
	"fmt"
	"strings"

	"cloister/oci"
)

// Every field that cannot be honoured is in one error, each with its remedy.
func ExampleParse() {
	config := []byte(`{
		"ociVersion": "1.2.0",
		"process": {"args": ["sh"], "cwd": "/"},
		"root": {"path": "rootfs"},
		"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "uts"}]},
		"annotations": {"io.cloister.cpus": "2"}
	}`)
	_, err := oci.Parse(config, oci.Options{})
	if refused, ok := errors.AsType[*oci.UnsupportedError](err); ok {
		for _, p := range refused.Problems {
			fmt.Println(p.Field)
			fmt.Println("  ...", p.Text[strings.LastIndex(p.Text, ":")+2:])
		}
	}
	// Output:
	// annotations.io.cloister.cpus
	//   ... list it under workloads.annotations in cloister's configuration
	// linux.namespaces
	//   ... use a private or the pod's ipc namespace
}

// A machine has the workload's memory and a reserve for the guest's kernel and agent.
func ExampleWorkload_Size() {
	w := &oci.Workload{Resources: oci.Resources{MemoryLimit: 256 << 20, CPUQuota: 150000, CPUPeriod: 100000}}
	size, err := w.Size(oci.Sizing{}.OnHost(8))
	fmt.Println(size.MemoryMiB, size.CPUs, size.ContainerMemory>>20, err)
	// Output: 352 2 256 <nil>
}
