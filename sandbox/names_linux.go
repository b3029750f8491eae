// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"strings"

	"cloister/oci"
	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/network"
)

// serveNames has the guest reach the engine's name server once a container is told
// to use it. Docker has one on the loopback device of every user-defined network,
// which in a guest is the guest's own.
func (s *Sandbox) serveNames(ctx context.Context, c *content.Copied) error {
	if c.Purpose != oci.ResolvFile || !asksEngine(c.Data) {
		return nil
	}
	s.pod.Lock()
	defer s.pod.Unlock()
	if s.named {
		return nil
	}
	err := s.guest.ServeNames(ctx, func(ctx context.Context, q guestapi.Question) []byte {
		return s.netns.AskName(ctx, q.TCP, q.Data)
	})
	s.named = err == nil
	return s.Explain(err)
}

// asksEngine reads a resolv.conf(5).
func asksEngine(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && f[1] == network.NameServer {
			return true
		}
	}
	return false
}
