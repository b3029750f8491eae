// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxWaiting bounds the phases that wait to be written down. The oldest are dropped. A pod whose
// containers come and go for months has no end of them.
const maxWaiting = 64

// Notes is what people ask of a sandbox before it is written to the record: facts, and how long
// each phase took. Its methods may be called at once. They are kept in memory, since each write of
// the record is synced to disk.
type Notes struct {
	begun time.Time

	mu     sync.Mutex
	facts  map[string]string
	phases []Phase // since they were last written down
}

// NewNotes makes empty notes. Offsets of phases count from now.
func NewNotes() *Notes { return &Notes{begun: time.Now(), facts: map[string]string{}} }

// Set adds a fact. A later value replaces the earlier one.
func (n *Notes) Set(name, value string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.facts[name] = value
}

// All is a copy of the facts.
func (n *Notes) All() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.facts)
}

// Phase adds a phase that ends now.
func (n *Notes) Phase(name string, begin time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phases = append(slices.Delete(n.phases, 0, max(0, len(n.phases)+1-maxWaiting)), Phase{
		Name: name, OffsetMs: begin.Sub(n.begun).Milliseconds(), DurationMs: time.Since(begin).Milliseconds(),
	})
}

// Seen is a copy of the phases that Take would return.
func (n *Notes) Seen() []Phase {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.phases)
}

// Take returns the phases and forgets them. The caller writes them to the record.
func (n *Notes) Take() []Phase {
	n.mu.Lock()
	defer n.mu.Unlock()
	phases := n.phases
	n.phases = nil
	return phases
}

// Line prints phases for a log.
func Line(phases []Phase) string {
	words := make([]string, 0, len(phases))
	for _, p := range phases {
		words = append(words, fmt.Sprintf("%s=%dms", p.Name, p.DurationMs))
	}
	return strings.Join(words, " ")
}
