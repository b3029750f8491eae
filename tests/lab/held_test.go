// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// held runs a container, and a script once its shim has come to a step: the host changes under a
// start. The script has $id, $shim, and $qemu once there is one. It gives what ctr printed, and an
// error when the container was not started. Its first FIFO is opened once ctr has ended, too: a
// start that fails before the step would otherwise leave the script waiting.
func (l *lab) held(t *testing.T, id, step, config, script string, more ...string) (string, error) {
	t.Helper()
	l.engine(t)
	flags := append([]string{"--runtime-config-path", config}, more...)
	for i, f := range flags {
		flags[i] = "'" + f + "'" // annotations have a semicolon
	}
	text := fmt.Sprintf(`id=%s; cd %s && mkfifo $id.held $id.go && echo '%s' >$id.hold || exit 99
( ctr run --detach --runtime io.containerd.held.v2 %s %s $id sleep 600 >$id.out 2>&1; echo "exit $?" >>$id.out
	timeout 1 sh -c ": >$id.held" ) & started=$!
read nothing <$id.held
for q in $(pgrep qemu-system); do s=$(ps -o ppid= $q | tr -d ' '); tr '\0' ' ' </proc/$s/cmdline | grep -q -- "-id $id " &&
	shim=$s qemu=$q; done
[ -n "$shim" ] || shim=$(pgrep -f -- "-id $id " | head -n 1)
%s
grep -qs "^exit" $id.out || timeout 20 sh -c "echo >$id.go"
wait $started; cat $id.out`, id, heldFolder, step, strings.Join(flags, " "), images.BusyboxName, script)
	answer, err := l.run(wire.Run{Argv: []string{"/bin/sh", "-c", text}, Env: labEnv(), Seconds: 150})
	if err != nil {
		t.Fatal(err)
	}
	if steps := l.steps(t, id); !strings.Contains(steps, step+"\n") {
		t.Errorf("%s never came to %q, but to:\n%s%s", id, step, steps, answer.Out)
	}
	if !strings.Contains(answer.Out, "\nexit 0\n") && !strings.HasPrefix(answer.Out, "exit 0\n") {
		err = fmt.Errorf("ctr: %s", strings.TrimSpace(answer.Out))
	}
	return answer.Out, err
}

// steps are those that a held shim went through.
func (l *lab) steps(t *testing.T, id string) string {
	t.Helper()
	answer, err := l.ask(wire.Request{Read: &wire.Read{Path: heldFolder + "/" + id + ".steps"}}, longAsk)
	if err != nil {
		return err.Error()
	}
	return answer.Out
}

// sh runs a script in the machine that has to work, and gives its output.
func (l *lab) sh(t *testing.T, script string) string {
	t.Helper()
	answer, err := l.run(wire.Run{Argv: []string{"/bin/sh", "-ec", script}, Env: labEnv(), Seconds: 200})
	if err != nil || answer.Exit != 0 {
		t.Fatalf("%v, exit %d: %s\n%s\n%s", err, answer.Exit, script, answer.Out, brief(denials(answer.Audit)))
	}
	return answer.Out
}

// config writes a configuration of cloister into the machine and gives its path: top is before all
// tables, label in the one of labels, rest behind all.
func (l *lab) config(t *testing.T, name, top, label, rest string) string {
	t.Helper()
	path := "/run/lab/config/" + name + ".toml"
	if err := l.write(wire.Write{Path: path, Data: []byte(labConfig(l.mac, top, label, rest)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return path
}

// nothingLeft looks for what a sandbox that was refused may have left: processes, its folder, a
// reserved level, an entry of the journal. root is where registry and journal are. A note of a kept
// volume's pair may stay: the volume has the pair.
func (l *lab) nothingLeft(t *testing.T, id, root string) {
	t.Helper()
	pattern := "[" + id[:1] + "]" + id[1:] // matches the name, and not this script
	left := l.sh(t,
		fmt.Sprintf(`pgrep -af -- '%[1]s' | grep -v 'pgrep -af' || true
	find /run/cloister* /run/nolabels -name '%[1]s' -prune 2>/dev/null || true
grep -rl --exclude-dir=kept '%[1]s' %[2]s/mcs 2>/dev/null || true
ls %[2]s/relabel/sandboxes 2>/dev/null | grep '%[1]s' || true`, pattern, root))
	if left = strings.TrimSpace(left); left != "" {
		t.Errorf("%s: left:\n%s", id, left)
	}
}

// level finds the level of the QEMU that a shim has started.
func (l *lab) level(t *testing.T, id string) (label string, pid int) {
	t.Helper()
	out := strings.Fields(l.sh(t, fmt.Sprintf(`for q in $(pgrep qemu-system); do
  tr '\0' ' ' </proc/$(ps -o ppid= $q | tr -d ' ')/cmdline | grep -q -- "-id %s " && ps -o label=,pid= $q; done; true`, id)))
	if len(out) != 2 {
		t.Fatalf("QEMU of %s: %q, want its label and pid", id, out)
	}
	pid, err := strconv.Atoi(out[1])
	if err != nil {
		t.Fatal(err)
	}
	return out[0], pid
}
