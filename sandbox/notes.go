// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cloister/sandbox/statedir"
)

// maxPhases bounds the phases that wait to be written down. The oldest are dropped.
const maxPhases = 64

// notes is what people ask of a sandbox: facts, and how long each phase took. Its methods may be called at
// once.
type notes struct {
	begun time.Time

	mu     sync.Mutex
	facts  map[string]string
	phases []statedir.Phase // since they were last written down
}

func newNotes() *notes { return &notes{begun: time.Now(), facts: map[string]string{}} }

// set adds a fact.
func (n *notes) set(name, value string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.facts[name] = value
}

// all is a copy of the facts.
func (n *notes) all() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.facts)
}

// phase adds a phase that ends now.
func (n *notes) phase(name string, begin time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phases = append(slices.Delete(n.phases, 0, max(0, len(n.phases)+1-maxPhases)), statedir.Phase{
		Name: name, OffsetMs: begin.Sub(n.begun).Milliseconds(), DurationMs: time.Since(begin).Milliseconds(),
	})
}

// take returns the phases and forgets them.
func (n *notes) take() []statedir.Phase {
	n.mu.Lock()
	defer n.mu.Unlock()
	phases := n.phases
	n.phases = nil
	return phases
}

// line prints phases for a log.
func line(phases []statedir.Phase) string {
	words := make([]string, 0, len(phases))
	for _, p := range phases {
		words = append(words, fmt.Sprintf("%s=%dms", p.Name, p.DurationMs))
	}
	return strings.Join(words, " ")
}
