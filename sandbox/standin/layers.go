// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"encoding/json"
	"fmt"
	"slices"

	"cloister/sandbox/prove"
)

// mounted says that the host's file tree is a container's root directory: what the configuration of
// such a container needs to know.
type mounted struct {
	root, cwd string
}

// alone ends the name of the cgroup of a container with some layers.
const alone = "-alone"

// stripped is the configuration of a plain container, config.json, with these layers of it alone.
// It has a cgroup of its own and runs argv. host takes the place of the layer root; capabilities
// are all that root has.
func stripped(config []byte, with []prove.Layer, argv, capabilities []string, host mounted) ([]byte, error) {
	var spec map[string]any
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, err
	}
	has := func(l prove.Layer) bool { return slices.Contains(with, l) }
	process, _ := spec["process"].(map[string]any)
	linux, _ := spec["linux"].(map[string]any)
	root, _ := spec["root"].(map[string]any)
	cgroup, _ := linux["cgroupsPath"].(string)
	if process == nil || root == nil || cgroup == "" {
		return nil, fmt.Errorf("config.json: process, root and linux.cgroupsPath are needed: %s", config)
	}
	process["args"], linux["cgroupsPath"] = argv, cgroup+alone
	delete(spec, "hostname")
	delete(linux, "sysctl")
	if !has(prove.MAC) {
		delete(process, "selinuxLabel")
		delete(process, "apparmorProfile")
		delete(linux, "mountLabel")
	}
	if !has(prove.User) {
		all := map[string]any{}
		for _, set := range []string{"bounding", "permitted", "effective"} {
			all[set] = capabilities
		}
		process["capabilities"], process["noNewPrivileges"] = all, false
	}
	if !has(prove.Seccomp) {
		delete(linux, "seccomp")
	}
	if !has(prove.Root) {
		root["path"], root["readonly"], process["cwd"] = host.root, false, host.cwd
		spec["mounts"] = []any{}
		delete(linux, "maskedPaths")
		delete(linux, "readonlyPaths")
	}
	if !has(prove.Namespaces) {
		// No OCI runtime does without one of mounts, which keeps nothing from the container that
		// the layer root does not.
		linux["namespaces"] = []any{map[string]any{"type": "mount"}}
	}
	if !has(prove.Cgroup) {
		linux["resources"] = map[string]any{"devices": []any{map[string]any{"allow": true, "access": "rwm"}}}
	}
	return json.Marshal(spec)
}
