// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
)

// failureWait bounds how long an exit waits for the first bytes of a process's
// stderr: a child that outlives the process may hold it open.
const failureWait = 200 * time.Millisecond

// failure is a writer that knows crun's report of a program that could not be
// executed. crun notices it after the container's start, when stderr is the
// container's own already, and writes a line of JSON there. runc writes "exec
// NAME: REASON", which is sent in its place. Clients know runc's text.
type failure struct {
	to io.Writer

	once   sync.Once
	seen   chan struct{} // closed after the first write, or when there is none
	failed bool          // set before seen is closed
}

// Write passes p on, the first one perhaps in runc's words. It returns len(p) also for a shorter
// text: io.Copy takes anything else for a short write.
func (f *failure) Write(p []byte) (int, error) {
	if text := f.examine(p); text != nil {
		_, err := f.to.Write(text)
		return len(p), err
	}
	return f.to.Write(p)
}

// examine looks at the first bytes that were written, nil for none, and gives
// what is to be sent in their place, nil for themselves. Only the first write can be the report:
// crun writes it before the program would have written anything.
func (f *failure) examine(p []byte) (text []byte) {
	f.once.Do(func() {
		text = execFailure(p)
		f.failed = text != nil
		close(f.seen)
	})
	return text
}

// wait says whether the program could not be executed, once that is known. An exit without any
// output is told as soon as stderr is closed, and after failureWait at the latest.
func (f *failure) wait() bool {
	timer := time.NewTimer(failureWait)
	defer timer.Stop()
	select {
	case <-f.seen:
		return f.failed
	case <-timer.C:
		return false
	}
}

// execMessage is crun's in src/libcrun/container.c. It is not compiled when the agent starts: an
// emulator translates what runs then in each guest anew.
func execMessage() *regexp.Regexp {
	return regexp.MustCompile("^exec container process (?:\\([^)]*\\) ?)?[`']([^`']*)[`']: (.+)$")
}

// execFailure gives crun's report in runc's words; nil for anything else. Whatever does not have
// exactly crun's form is the container's own output and passes unchanged.
func execFailure(line []byte) []byte {
	if !bytes.HasPrefix(line, []byte("{")) {
		return nil
	}
	ending := "\n"
	if bytes.HasSuffix(line, []byte("\r\n")) { // a terminal's
		ending = "\r\n"
	}
	// A container could write such a line itself as its first one; it changes its own output and
	// status then, and nothing else.
	var report struct {
		Msg   string `json:"msg"`
		Level string `json:"level"`
	}
	if json.Unmarshal(bytes.TrimSpace(line), &report) != nil || report.Level != "error" {
		return nil
	}
	m := execMessage().FindStringSubmatch(report.Msg)
	if m == nil {
		return nil
	}
	// crun begins the reason with a capital letter, as strerror does; runc does not.
	reason := []rune(strings.TrimSpace(m[2]))
	reason[0] = unicode.ToLower(reason[0])
	return []byte("exec " + m[1] + ": " + string(reason) + ending)
}
