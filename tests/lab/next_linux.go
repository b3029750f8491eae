// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"cloister/labels/policy"
)

// nextType is a type that only the next version of the module has.
const nextType = "cloister_next_t"

// nextFiles are the command line of the next version of cloister, whose policy module differs from
// that of now, and the packages of both versions. An overlay of the build gives it other rules.
func nextFiles(ctx context.Context, work string) ([]file, error) {
	rules, err := policy.Source("te")
	if err != nil {
		return nil, err
	}
	changed := filepath.Join(work, "next.te")
	rules = append(bytes.Clone(rules), "\ntype "+nextType+";\n"...)
	if err := os.WriteFile(changed, rules, 0o644); err != nil {
		return nil, err
	}
	original, err := filepath.Abs("../../labels/policy/module/" + policy.Name + ".te")
	if err != nil {
		return nil, err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return nil, err
	}
	replace, program := filepath.Join(work, "next.json"), filepath.Join(work, "next")
	if err := os.WriteFile(replace, overlay, 0o644); err != nil {
		return nil, err
	}
	err = tool(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-overlay", replace, "-o", program, "cloister/cmd/cloister")
	if err != nil {
		return nil, err
	}
	list, err := packageFiles(ctx, work, program)
	return append(list, file{"bin/cloister-next", program, "bin_t"}), err
}
