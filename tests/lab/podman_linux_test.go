// SPDX-License-Identifier: Apache-2.0

package lab

import "cloister/labels/policy"

// podmanConf is what Podman needs on a host without systemd, beside what `cloister install podman`
// writes.
const podmanConf = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
`

// fedoraContexts is container-selinux's file of engines' types, as far as the lab's second policy
// has them.
const fedoraContexts = `process = "system_u:system_r:container_t:s0"
content = "system_u:object_r:container_ro_file_t:s0"
file = "system_u:object_r:container_file_t:s0"
ro_file = "system_u:object_r:container_ro_file_t:s0"
kvm_process = "system_u:system_r:container_kvm_t:s0"
`

// podmanHost is how a policy's host has Podman. Root's shell is unconfined on Debian. On Fedora its
// Podman and conmon change to the engines' domain, and the store has a type of its own. On both
// Podman keeps the user of the login, which is not the one of its containers' labels.
type podmanHost struct {
	contexts string // the file of engines' types
	file     string // their type of files
	program  string // the type of Podman's program
	store    string // the type of what is in its store
	as       []string
}

func podmanOn(kind string) podmanHost {
	if kind == fedoraPolicy {
		return podmanHost{
			contexts: fedoraContexts, file: "container_file_t",
			program: "container_runtime_exec_t", store: "container_ro_file_t",
			as: []string{"/usr/bin/runcon", "unconfined_u:system_r:container_runtime_t:" + allLevels},
		}
	}
	return podmanHost{
		contexts: secondContexts, file: policy.ContainerFileType, program: "bin_t", store: "var_lib_t",
		as: rootShell(allLevels),
	}
}
