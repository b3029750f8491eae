// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"cloister/oci"
	"cloister/sandbox/clone"
)

// TryImage boots the configured guest image once and waits for the hello of its agent, in a sandbox
// of its own as BuildTemplate does. Nothing is left.
func TryImage(ctx context.Context, cfg Config) (err error) {
	s := newSandbox(cfg, Request{
		ID: "try-" + strings.ToLower(rand.Text()[:12]), Namespace: TemplateNamespace, Workload: &oci.Workload{},
	})
	defer func() { err = errors.Join(err, s.undo.Run(ctx)) }()
	p := &starting{}
	defer p.close()
	for _, step := range []step{
		{"plan", func(ctx context.Context) error { return s.planMachine(ctx, p) }},
		{"promise", s.promise},
		{"label", func(ctx context.Context) error { return s.reserve(ctx, p) }},
		{"prepare", func(ctx context.Context) error { return s.prepare(ctx, p) }},
		{"files", func(ctx context.Context) error { return s.serveFiles(ctx, p) }},
		{"qemu", func(ctx context.Context) error { return s.launch(ctx, p) }},
		{"verify", s.verify},
		{"agent", func(ctx context.Context) error { return clone.Hello(ctx, s.vm) }},
	} {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("boot the guest image: %s: %w", step.name, err)
		}
		s.Reached(step.name)
	}
	return nil
}
