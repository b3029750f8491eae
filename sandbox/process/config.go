// SPDX-License-Identifier: Apache-2.0

package process

import (
	"cloister/oci"
	"cloister/sandbox/plan"
	"cloister/sandbox/recovery"
)

// Config is what class process needs to know of the host's configuration. Host.State and Host.Root
// must be those of the host's own configuration: two registries would give out one pair twice.
type Config struct {
	Host      recovery.Host
	Runtime   string           // path of the OCI runtime
	Rules     []plan.LabelRule // how volumes are labelled
	Workloads oci.Options
}
