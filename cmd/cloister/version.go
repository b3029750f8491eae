// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"cloister/cmd/internal/config"
	"cloister/labels/policy"
	"cloister/sandbox/guestapi"
)

// version is what this program is made of.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Protocol int    `json:"guestProtocol"`
	Policy   string `json:"policyDigest"`
}

func runVersion(_ context.Context, std stdio, args []string) error {
	c := newCommand("version [--json]", "Says what this program is made of.")
	c.withJSON()
	if _, err := c.arguments(std, args, 0, 0); err != nil {
		return err
	}
	v := version{
		Version: config.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Protocol: guestapi.Protocol, Policy: policy.Digest(),
	}
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
	if *c.asJSON {
		return printJSON(std.out, v)
	}
	revision := v.Revision
	if v.Modified {
		revision += " with changes"
	}
	fmt.Fprintf(std.out, "cloister %s %s\n%s %s\nguest protocol %d, policy %.12s\n", v.Version, revision, v.Go, v.Platform, v.Protocol, v.Policy)
	return nil
}
