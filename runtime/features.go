// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/json"

	"cloister/oci"
)

// Features is runtime-spec's features document, in JSON: what of a configuration is honoured.
// containerd gets it with -info, without a sandbox.
func Features() ([]byte, error) { return json.Marshal(oci.Features()) }
