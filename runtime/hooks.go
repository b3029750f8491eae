// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"

	"cloister/oci"
)

func (r *Runtime) runHooks(context.Context, *container, []oci.Hook) {}
