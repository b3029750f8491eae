// SPDX-License-Identifier: Apache-2.0

package lab

import "cloister/labels/policy"

// ofShim are accesses that bound the shim, and what it reads all the same (docs/decisions/0065).
func ofShim() []struct {
	want
	allowed bool
} {
	type row = struct {
		want
		allowed bool
	}
	list := []row{
		{want{policy.ShimType, "security_t", "security", "load_policy"}, false},
		{want{policy.ShimType, "security_t", "security", "setenforce"}, false},
		{want{policy.ShimType, policy.ShimType, "capability", "sys_module"}, false},
		{want{policy.ShimType, "init_t", "process", "ptrace"}, false},
		{want{policy.ShimType, "shadow_t", "file", "read"}, false},
		{want{policy.ShimType, "shadow_t", "file", "relabelto"}, false},
		{want{policy.ShimType, "policy_config_t", "file", "write"}, false},
	}
	for _, kind := range []string{"selinux_config_t", "file_context_t", "default_context_t", "semanage_store_t", "boot_t"} {
		list = append(
			list, row{want{policy.ShimType, kind, "file", "read"}, true}, row{want{policy.ShimType, kind, "file", "write"}, false},
			row{want{policy.ShimType, kind, "file", "relabelfrom"}, false}, row{want{policy.ShimType, kind, "dir", "add_name"}, false},
		)
	}
	return list
}
