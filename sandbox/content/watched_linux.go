// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"

	"github.com/containerd/log"

	"cloister/sandbox/watch"
)

// Follow tells what the host changes in a volume, until ctx is done or tell fails. No watch is no
// reason not to run: the log says what does without. names are relative to the volume; tell sends
// them to the guest. It runs as long as a container has the volume.
func Follow(ctx context.Context, tree *watch.Tree, tell func(ctx context.Context, names []string) error) {
	var err error
	for full := false; err == nil; {
		if tree.Full() && !full {
			full = true
			log.G(ctx).Warnf("more than %d folders, or very long names: changes in some raise no events in the guest", watch.MaxFolders)
		}
		var names []string
		if names, err = tree.Next(); err == nil {
			err = tell(ctx, names)
		}
	}
	if ctx.Err() == nil {
		log.G(ctx).WithError(err).Warn("from now on the host's changes raise no events in the guest")
	}
}
