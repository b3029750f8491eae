// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// stacksLine finds what a shim writes to containerd's log on SIGUSR1, quoted.
var stacksLine = regexp.MustCompile(`msg=("stacks:(?:[^"\\]|\\.)*")`)

// Stacks tells in the test's log where the goroutines of the place's shims are. It is for a call
// that does not come back: the log of a test that was ended for its time tells only of the test.
func (c *Containerd) Stacks(t testing.TB) {
	t.Helper()
	for pid, line := range c.Place.Processes(t) {
		if program, _, _ := strings.Cut(line, " "); strings.HasPrefix(filepath.Base(program), "containerd-shim-cloister") {
			c.Place.Run(t, "kill", "-USR1", fmt.Sprint(pid))
		}
	}
	time.Sleep(2 * time.Second) // nothing tells when the lines are in the log
	data, err := os.ReadFile(c.LogFile)
	if err != nil {
		t.Errorf("stacks: %v", err)
	}
	for _, line := range stacksLine.FindAllSubmatch(data, -1) {
		text, err := strconv.Unquote(string(line[1]))
		if _, stacks, found := strings.Cut(text, "\n"); err == nil && found {
			t.Logf("goroutines of a shim:\n%s", ours(stacks))
		}
	}
}

// ours is one line for each goroutine that is in code of the project: its state and the functions.
func ours(stacks string) string {
	var out []string
	for goroutine := range strings.SplitSeq(stacks, "\n\n") {
		head, calls, _ := strings.Cut(goroutine, "\n")
		var names []string
		for call := range strings.Lines(calls) {
			if i := strings.LastIndex(call, "("); i > 0 && strings.HasPrefix(call, "cloister/") {
				names = append(names, strings.TrimPrefix(call[:i], "cloister/"))
			}
		}
		if len(names) > 0 {
			out = append(out, head+" "+strings.Join(names, " < "))
		}
	}
	return strings.Join(out, "\n")
}
