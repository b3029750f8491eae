// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The test binary plays QEMU, and the process that starts QEMU, when told so.
const (
	fakeEnv    = "FAKE_QEMU"
	starterEnv = "FAKE_STARTER"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(fakeEnv) != "":
		fakeQEMU(os.Getenv(fakeEnv))
	case os.Getenv(starterEnv) != "":
		fakeStarter()
	default:
		os.Exit(m.Run())
	}
}

// fake starts the test binary as QEMU, behaving as scenario.
type fake struct{ scenario string }

func (f fake) Start(cmd *exec.Cmd) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd.Path = self
	cmd.Env = append(cmd.Env, fakeEnv+"="+f.scenario)
	return cmd.Start()
}

const (
	banner   = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`
	ok       = `{"return": {}}`
	shutdown = `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {"seconds": 1, "microseconds": 2}}`
)

// fakeQEMU serves QMP on descriptor 3 as QEMU would, but for the scenario.
func fakeQEMU(scenario string) {
	conn := os.NewFile(3, "qmp")
	say := func(line string) { fmt.Fprintln(conn, line) }
	switch scenario {
	case "exits":
		fmt.Fprintln(os.Stderr, "qemu: -machine: no such thing")
		os.Exit(1)
	case "silent":
		select {}
	case "garbage":
		say("\x00\xff not json")
		select {}
	case "endless banner":
		for {
			fmt.Fprint(conn, `{"QMP": [[[[[[[[`, strings.Repeat("[", 1<<16))
		}
	}
	say(banner)
	fmt.Fprintln(os.NewFile(5, "console"), "\x1b[2Jguest\x07 console")
	// Like QEMU's, this parser needs no newline after a command.
	commands := json.NewDecoder(conn)
	for {
		var command struct {
			Execute string `json:"execute"`
		}
		if err := commands.Decode(&command); err != nil {
			break
		}
		fakeAnswer(scenario, command.Execute, say)
	}
	if scenario == "deaf" {
		select {}
	}
}

func fakeAnswer(scenario, command string, say func(string)) {
	switch {
	case command == "qmp_capabilities" && scenario == "refuses":
		say(`{"error": {"class": "CommandNotFound", "desc": "no negotiation"}}`)
	case command == "qmp_capabilities":
		say(ok)
	case command == "quit" && scenario != "deaf":
		say(ok)
		os.Exit(0)
	case command == "query-balloon":
		say(`{"return": {"actual": 318767104}}`)
	case command == "cont" && scenario == "mute":
	case command == "cont" && scenario == "deaf":
	case command == "cont" && scenario == "errs":
		say(`{"error": {"class": "GenericError", "desc": "it will not run"}}`)
	case command == "cont" && scenario == "babbles":
		say(`{"return": ` + strings.Repeat("[", 1<<20) + `}`)
	case command == "cont" && scenario == "floods":
		for i := range 2000 {
			say(fmt.Sprintf(`{"event": "FLOOD%d", "data": {"reason": %q}}`, i, strings.Repeat("x", i%500)))
		}
		say(ok)
	case command == "cont" && scenario == "dies":
		fmt.Fprintln(os.Stderr, "last words")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case command == "cont" && scenario == "powers off":
		say(ok)
		say(shutdown)
		os.Exit(0)
	default:
		say(ok)
	}
}
