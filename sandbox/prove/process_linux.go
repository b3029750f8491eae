// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"cloister/sandbox/confine"
)

// Domain is the place of one sandbox's processes. The package asks for a role and layers, and must
// not know how either is made. The real ones are in package standin.
type Domain interface {
	// Start starts cmd in the place of the role, with these layers alone. The Domain gives cmd its
	// streams.
	Start(ctx context.Context, cmd *exec.Cmd, r confine.Role, with []Layer) (Process, error)
}

// Process is an attacker or a victim that runs. It is read from and written to by its standard
// streams; a read gives io.EOF once it has ended.
type Process interface {
	io.ReadWriter
	// PID is the process's on the host; 0 if it is not known.
	PID() int
	// End kills the process, waits for it, and says how it ended. It is called once.
	End() error
}

// Started is a command that was started, with our end of the socket that is its standard input and
// output.
func Started(cmd *exec.Cmd, conn *os.File) Process { return started{conn, cmd} }

type started struct {
	*os.File

	cmd *exec.Cmd
}

func (s started) PID() int { return s.cmd.Process.Pid }

func (s started) End() error {
	_ = s.Close()
	_ = s.cmd.Process.Kill()
	return s.cmd.Wait()
}

// Ready waits for an attacker or a victim to say that it runs. lines is its standard output.
func Ready(lines *bufio.Reader) error {
	if said, err := lines.ReadString('\n'); err != nil || said != done+"\n" {
		return fmt.Errorf("it does not run: it said %q: %w", said, cmp.Or(err, errSaid))
	}
	return nil
}

var errSaid = errors.New("another line was expected")

// process is an attacker or victim that runs.
type process struct {
	Process

	lines *bufio.Reader
}

// ask sends a line and waits for the answer. There is no limit but ctx of start: an attack that
// hangs is ended with the process.
func (p *process) ask(text string) (string, error) {
	if _, err := fmt.Fprintln(p, text); err != nil {
		return "", err
	}
	return p.hear()
}

// hear waits for a line; io.EOF says that the process has ended.
func (p *process) hear() (string, error) {
	line, err := p.lines.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// attack has the process make an attack, and says whether it has ended with it. A process that is
// killed by the filter or ends by itself counts as denied, with its end as the reason.
func (p *process) attack(name, target string) (said string, ended bool, err error) {
	said, failed := p.ask(name + "\t" + target)
	switch {
	case failed != nil:
		return lastWords(name, said, p.End()), true, nil //nolint:nilerr // that it has ended is what it says
	case said == done && final(name):
		_ = p.End() // killed, or it has ended
		return said, true, nil
	case said != done && !strings.HasPrefix(said, denied):
		return "", false, fmt.Errorf("%s: the attacker said %q", name, said)
	}
	return said, false, nil
}

// lastWords says what has come of an attack whose process ended without an answer: a program that
// it has become, and that has done well, or its end by a signal. Only of exec can the attacker not
// say itself that it has succeeded.
func lastWords(name, said string, ended error) string {
	if name == "exec" && said == "" && ended == nil {
		return done
	}
	return fmt.Sprintf("%sit ended: %v %s", denied, ended, said)
}
