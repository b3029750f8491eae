// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"

	"cloister/sandbox/plan"
)

// Rules are the configuration's lists of names, each name without links. A name that leads nowhere
// on this host matches no file and is left out. Sources are compared by their real path, which the
// kernel gives without links; so the lists must have none either.
func Rules(sockets, watch []string, labels []plan.LabelRule) (plan.Rules, error) {
	r := plan.Rules{Labels: make([]plan.LabelRule, 0, len(labels))}
	var errs []error
	for _, list := range []struct {
		field string
		names []string
		out   *[]string
	}{{"workloads.sockets", sockets, &r.Sockets}, {"workloads.watch", watch, &r.Watch}} {
		for _, name := range list.names {
			if !filepath.IsAbs(name) {
				errs = append(errs, fmt.Errorf("%s: %q is not an absolute path: %w", list.field, name, errdefs.ErrInvalidArgument))
			} else if target, err := filepath.EvalSymlinks(name); err == nil {
				*list.out = append(*list.out, target)
			}
		}
	}
	for _, rule := range labels {
		if target, err := filepath.EvalSymlinks(rule.Folder); err == nil {
			rule.Folder = target
		}
		r.Labels = append(r.Labels, rule)
	}
	return r, errors.Join(errs...)
}
