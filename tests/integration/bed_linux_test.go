// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"cmp"
	"os"
	"strings"
	"testing"

	beds "cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/leaks"
)

const image = beds.Image

// runtimeName is the runtime under test.
func runtimeName() string { return cmp.Or(os.Getenv("CLOISTER_TEST_RUNTIME"), beds.Cloister) }

// plain tells whether the tests are about cloister's containers of class process.
func plain() bool { return os.Getenv("CLOISTER_TEST_CLASS") == "process" }

// isCloister tells whether the tests are about cloister's machines and not about a peer or plain
// containers.
func isCloister() bool { return runtimeName() == beds.Cloister && !plain() }

// bed is a daemon for the runtime under test.
type bed struct {
	*beds.Bed
	before leaks.Snapshot // what the host has without sandboxes
}

// newBed starts a daemon that lasts as long as the test and, at its end, looks for what was left
// behind.
func newBed(t *testing.T, o host.Options) *bed {
	t.Helper()
	if plain() {
		o.Class = "process"
	}
	b := &bed{Bed: beds.NewFor(t, runtimeName(), o)}
	b.keep(t)
	t.Cleanup(func() {
		if !t.Failed() { // a test that failed has left what it failed with, and waiting for its end says nothing new
			b.NothingLeft(t, b.before)
		}
	})
	return b
}

// keep counts what is there now as the host's own and not as left behind. No sandbox runs then.
func (b *bed) keep(t *testing.T) {
	t.Helper()
	b.before = b.Look(t)
}

// run runs a container to its end, and takes it away.
func (b *bed) run(t *testing.T, id string, options []string, command ...string) host.Result {
	t.Helper()
	return b.Run(t, b.Args(id, append([]string{"--rm"}, options...), command...)...)
}

// want runs a container to its end and compares what it wrote to its standard output, less blanks
// around it.
func (b *bed) want(t *testing.T, id, want string, options []string, command ...string) {
	t.Helper()
	r := b.run(t, id, options, command...)
	if got := strings.TrimSpace(r.Stdout); got != want || r.Code != 0 {
		t.Errorf("%s: %s = %q, exit %d, want %q\nstderr: %s", id, strings.Join(command, " "), got, r.Code, want, r.Stderr)
	}
}

// say runs a shell script in the running container c and compares what it wrote, less blanks around
// it: a machine of its own for each would take long.
func (b *bed) say(t *testing.T, name, want, script string) {
	t.Helper()
	r := b.Exec(t, "c", name, "sh", "-c", script)
	if got := strings.TrimSpace(r.Stdout); got != want || r.Code != 0 {
		t.Errorf("%s: %s = %q, exit %d, want %q\nstderr: %s", name, script, got, r.Code, want, r.Stderr)
	}
}

// topics gives the topics of the events about a container, in their order.
func topics(events []beds.Event, id string) []string {
	var found []string
	for _, e := range events {
		if e.Container == id {
			found = append(found, e.Topic)
		}
	}
	return found
}
