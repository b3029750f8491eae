// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
)

const examples = `
Examples:
  cloister check                             is this host ready, and if not, what is to be done
  cloister guest build --kernel=small        make the guest's kernel and initial image
  cloister install containerd --dry-run      what would change in containerd's config
  ctr run --rm --runtime io.containerd.cloister.v2 docker.io/library/alpine:latest one uname -r
  cloister ps                                what runs
  cloister logs -f one                       what the guest's console says
  cloister debug one ps                      what runs in the guest, where the config allows to look
  cloister why one                           what the policy denied it, and the command that helps

"cloister help VERB" and "cloister VERB -h" say more of one. ID is a sandbox's id, the start of it, or NAMESPACE/ID.
`

func runHelp(ctx context.Context, std stdio, args []string) error {
	if len(args) > 0 {
		return run(ctx, "cloister", verbs(), stdio{std.out, std.out}, []string{args[0], "-h"})
	}
	usage(std.out, "cloister", verbs())
	_, err := fmt.Fprint(std.out, examples)
	return err
}
