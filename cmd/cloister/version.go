// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"cloister/cmd/internal/stamp"
	"cloister/labels/policy"
	"cloister/sandbox/guestapi"
)

// version is what this program is made of. It is what a report of a fault should have. Revision is
// empty where the build had no git.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Protocol int    `json:"guestProtocol"`
	Policy   string `json:"policyDigest"`
}

// runVersion is the verb version. It reads no config, so it works on any host.
func runVersion(std stdio) *cobra.Command {
	c := newCommand(std, "version [--json]", "Says what this program is made of.")
	c.withOutput("table")
	return c.runs(0, 0, func(_ context.Context, _ []string) error {
		v := version{
			Version: stamp.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			Protocol: guestapi.Protocol, Policy: policy.Digest(),
		}
		// Go records it where the build had the repository's history.
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				switch s.Key {
				case "vcs.revision":
					v.Revision = s.Value
				case "vcs.modified":
					v.Modified = s.Value == "true"
				}
			}
		}
		if done, err := c.emit(v); done {
			return err
		}
		revision := strings.TrimRight(" "+v.Revision, " ")
		if v.Modified {
			revision += " with changes"
		}
		// Twelve digits of the digest are enough to compare by eye.
		fmt.Fprintf(std.out, "cloister %s%s\n%s %s\nguest protocol %d, policy %.12s\n", v.Version, revision,
			v.Go, v.Platform, v.Protocol, v.Policy)
		return nil
	})
}
