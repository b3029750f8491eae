// SPDX-License-Identifier: Apache-2.0

//go:build crashtest

package crashtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"cloister/sandbox/undo"
)

// crashEnv names a folder. In it, ID.steps gets a line for each step that the
// sandbox ID reaches, and ID.at has the step at which the program dies. At the
// step in ID.hold, or at every step when that is "*", it opens the FIFO ID.held for
// writing, and waits for what comes through the FIFO ID.go.
const crashEnv = "CLOISTER_CRASHTEST"

// drawn is the name of a template's build, which is drawn anew each time. Replaced, or no two runs
// would have the same steps.
var drawn = regexp.MustCompile(`build-[a-z2-7]{12}`)

// Trace writes down each step, and kills this process at the one that was asked for. The list of
// steps that a run leaves is what the test then walks: a new step is killed at without a change of
// the test.
func Trace(id string) undo.Trace {
	dir, ok := os.LookupEnv(crashEnv)
	if !ok {
		return nil
	}
	at, _ := os.ReadFile(filepath.Join(dir, id+".at")) // none: live
	var mu sync.Mutex
	seen := map[string]int{}
	return func(what, moment string) {
		mu.Lock()
		defer mu.Unlock()
		step := drawn.ReplaceAllString(strings.ReplaceAll(what, id, "ID"), "BUILD") + " " + moment
		// A step that happens several times gets a number.
		seen[step]++
		if n := seen[step]; n > 1 {
			step = fmt.Sprintf("%s #%d", step, n)
		}
		f, err := os.OpenFile(filepath.Join(dir, id+".steps"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(f, step)
		f.Close()
		// SIGKILL, so that no deferred function cleans up, as after a real kill.
		if step == strings.TrimSpace(string(at)) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
		hold, _ := os.ReadFile(filepath.Join(dir, id+".hold")) // read anew: a test may hold later steps
		if text := strings.TrimSpace(string(hold)); text == "*" || text == step {
			wait(filepath.Join(dir, id))
		}
	}
}

// wait holds the calling goroutine until somebody has seen to it. Two FIFOs make it a meeting:
// opening the first one blocks until the test has seen it, reading the second one until the test
// lets go.
func wait(name string) {
	held, err := os.OpenFile(name+".held", os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	held.Close()
	if _, err := os.ReadFile(name + ".go"); err != nil {
		panic(err)
	}
}
