// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/sandbox/jail"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// TestDebug looks into a running guest by `cloister debug`.
func TestDebug(t *testing.T) {
	if !isCloister() {
		t.Skip("runc has no guest to look into")
	}
	script := testenv.NeedTool(t, "script")
	shell := "[debug]\nshell = \"" + testenv.NeedBusybox(t) + "\"\n"
	b := newBed(t, host.Options{Cloister: shell})
	b.Start(t, "looked", nil)
	tool := filepath.Join(testenv.Build(t), "cloister")
	for _, test := range []struct {
		name, stdin, want string
		code              int
		args              []string
	}{
		{"a command", "", "init\nlooked\n", 3, []string{
			tool, "debug", "looked", "sh", "-c",
			"cat /proc/1/comm; ls /run/cloister/c; exit 3",
		}},
		{
			"the jail and its Landlock, by inspect", "", jail.Config{}.On(jail.LandlockABI()) + "\n", 0,
			[]string{tool, "inspect", "looked", "--output", "{{.facts.jail}}"},
		},
		{
			"the container's processes", "", "1000\n", 0,
			[]string{tool, "debug", "looked", "sh", "-c", "tr '\\0' '\\n' </proc/$(pidof sleep)/cmdline | tail -n 1"},
		},
		{"arguments are passed unchanged", "", "[a b][*][-l]", 0, []string{tool, "debug", "looked", "printf", "[%s]", "a b", "*", "-l"}},
		{"standard input", "echo from $((40+2)); exit 5", "from 42\n", 5, []string{tool, "debug", "looked"}},
		// More than a hundred frames of the contract.
		{"much", "", "4000000\n", 0, []string{"sh", "-c", tool + " debug looked head -c 4000000 /dev/zero | wc -c"}},
		{
			"a terminal", "tty; stty size; exit 4\n", "/dev/pts/0\n33 44\n", 4,
			[]string{script, "-qec", "stty rows 33 cols 44; exec " + tool + " debug looked", "/dev/null"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := b.Place.Command(t.Context(), test.args[0], test.args[1:]...)
			cmd.Env, cmd.Stdin = append(b.Env, "TERM=dumb"), strings.NewReader(test.stdin)
			out, err := cmd.CombinedOutput()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			}
			if got := strings.ReplaceAll(string(out), "\r\n", "\n"); !strings.Contains(got, test.want) || code != test.code {
				t.Errorf("%q = %q, %v, want %q and exit %d", test.args, got, err, test.want, test.code)
			}
		})
	}
	t.Run("hung up", func(t *testing.T) {
		cmd := b.Place.Command(t.Context(), tool, "debug", "looked", "sh", "-c", "echo begun; exec sleep 4321")
		cmd.Env = b.Env
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Cancel(); err != nil { // kills it
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if left := host.Await(host.Patience, func() string {
			cmd := b.Place.Command(t.Context(), tool, "debug", "looked", "sh", "-c", "ps | grep '[4]321'")
			cmd.Env = b.Env
			out, _ := cmd.CombinedOutput()
			return string(out)
		}); left != "" {
			t.Errorf("a shell whose user hung up still runs in the guest: %s", left)
		}
	})
	t.Run("not allowed", func(t *testing.T) {
		b.Place.WriteCloisterConfig(t, "")
		cmd := b.Place.Command(t.Context(), tool, "debug", "looked")
		cmd.Env = b.Env
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "shell = \"/usr/bin/busybox\" under [debug]") {
			t.Errorf("without the config's leave: %q, %v, want a refusal that says what to set", out, err)
		}
		b.Start(t, "closed", nil)
		b.Place.WriteCloisterConfig(t, shell)
		cmd = b.Place.Command(t.Context(), tool, "debug", "closed")
		cmd.Env = b.Env
		out, err = cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "it was started without [debug] shell") {
			t.Errorf("a sandbox from before: %q, %v, want a refusal that says to restart it", out, err)
		}
	})
}
