// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/hostmachine"
	"cloister/tests/lab/wire"
)

// config is the machine's hardware and its files.
type config struct {
	qemu                       string
	kernel, initrd, root, disk string
	memoryMiB                  int
	console                    string   // file for the kernel's messages
	security                   []string // kernel parameters
}

// machine is a lab that runs.
type machine struct {
	cmd     *exec.Cmd
	port    net.Conn
	lines   *bufio.Reader
	console string
	// seen are all audit records up to now.
	seen []string
	// abandon, when set, is called once the machine is lost, and does not return.
	abandon func(why string)
	// lost says why it is; empty while it answers.
	lost string
}

// start starts the machine. Its service answers some 20 s later; until then the first request
// waits.
func start(ctx context.Context, c config) (*machine, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "port"), os.NewFile(uintptr(pair[1]), "port")
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	port, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, c.qemu, args(ctx, c, 3)...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var messages bytes.Buffer
	cmd.Stderr = &messages
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the lab: %w: %s", err, tail(messages.Bytes()))
	}
	return &machine{cmd: cmd, port: port, lines: bufio.NewReaderSize(port, 1<<20), console: c.console}, nil
}

// args are QEMU's. AMD's processor with svm gives the machine a /dev/kvm of its own, emulated.
func args(ctx context.Context, c config, port int) []string {
	line := slices.Concat(c.security, []string{
		// Records wait in the backlog until they are read: a lost one could be an attempt's.
		"console=ttyS0", "panic=-1", "audit=1", "audit_backlog_limit=16384", "printk.devkmsg=on", "loglevel=4",
		// A processor that is stuck for 120 s, the longest the kernel allows, ends the machine,
		// which is begun again then. One was stuck for 44 s on a busy host.
		"softlockup_panic=1", "watchdog_thresh=60",
		// One that has lost its timer is not seen by that, but by the other processor.
		"rcupdate.rcu_cpu_stall_timeout=60", "sysctl.kernel.panic_on_rcu_stall=1",
	}, hostmachine.Parameters(ctx))
	return append(hostmachine.Args(c.memoryMiB),
		"-no-reboot",
		"-kernel", c.kernel, "-initrd", c.initrd, "-append", strings.Join(line, " "),
		"-drive", "file="+c.root+",format=raw,if=virtio,snapshot=on",
		"-drive", "file="+c.disk+",format=raw,if=virtio,snapshot=on",
		"-chardev", "file,id=console,path="+c.console, "-serial", "chardev:console",
		"-chardev", "socket,id=monitor,path="+monitor(c.console)+",server=on,wait=off", "-mon", "chardev=monitor,mode=readline",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=lab,fd="+strconv.Itoa(port),
		"-device", "virtserialport,chardev=lab,name="+wire.Port,
	)
}

// ask sends one request and waits for its answer.
func (m *machine) ask(r wire.Request, atMost time.Duration) (wire.Answer, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return wire.Answer{}, err
	}
	if m.lost != "" {
		return wire.Answer{}, errors.New("lab: the machine is lost")
	}
	if err := m.port.SetDeadline(time.Now().Add(atMost)); err != nil {
		return wire.Answer{}, err
	}
	var line []byte
	if _, err = m.port.Write(append(text, '\n')); err == nil {
		line, err = m.lines.ReadBytes('\n')
	}
	if err != nil {
		return wire.Answer{}, m.lose(fmt.Errorf("%.100s: %w", text, err))
	}
	var answer wire.Answer
	if err := json.Unmarshal(line, &answer); err != nil {
		return wire.Answer{}, fmt.Errorf("answer of the lab: %w", err)
	}
	m.seen = append(m.seen, answer.Audit...)
	if answer.Failure != "" {
		return answer, fmt.Errorf("lab: %s: %s", answer.Failure, strings.TrimSpace(answer.Out))
	}
	return answer, nil
}

var stuck = regexp.MustCompile(`BUG: soft lockup[^\n]*|Kernel panic[^\n]*|rcu: INFO:[^\n]*stall[^\n]*|lab: [^\n]*`)

// lose gives the machine up. The machine's service limits the time of every request. So a request
// without an answer means that the machine hangs or has ended: under emulation it locks up now and
// then with a virtual machine in it.
func (m *machine) lose(err error) error {
	text, _ := os.ReadFile(m.console)
	m.lost = fmt.Sprintf("%v; its console: %q; its processors: %q", err, stuck.FindAllString(string(text), 4), m.processors())
	if m.abandon != nil {
		m.abandon(m.lost)
	}
	return errors.New("lab: " + m.lost)
}

// monitor is the socket of QEMU's monitor, beside the file of the console.
func monitor(console string) string { return console + ".monitor" }

// registers are what tells most of a processor that hangs: where it is, whether it has interrupts
// on, and whether it is halted. The kernel's addresses on its stack tell how it came there.
var registers = regexp.MustCompile(`RIP=\w+ RFL=\w+|HLT=\d|0xffffffff[89ab]\w{7}`)

var stackTop = regexp.MustCompile(`RSP=(\w+)`)

// processors are the registers of each processor, three times in as many seconds, and then what is
// on each one's stack. A machine that has ended has none.
func (m *machine) processors() []string {
	port, err := (&net.Dialer{}).DialContext(context.Background(), "unix", monitor(m.console))
	if err != nil {
		return nil
	}
	defer port.Close()
	for range 3 {
		if _, err := port.Write([]byte("info registers -a\n")); err != nil {
			return nil
		}
		time.Sleep(time.Second)
	}
	read := func() string {
		_ = port.SetReadDeadline(time.Now().Add(time.Second)) // the monitor never ends by itself
		text, _ := io.ReadAll(port)
		return string(text)
	}
	text := read()
	for i, found := range stackTop.FindAllStringSubmatch(text, 2) {
		if _, err := fmt.Fprintf(port, "cpu %d\nx /100gx 0x%s\n", i, found[1]); err != nil {
			return nil
		}
		text += read()
	}
	return registers.FindAllString(text, -1)
}

// said is the end of what the kernel and the lab's programs have written.
func (m *machine) said() string {
	text, _ := os.ReadFile(m.console)
	const most = 8000
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return string(text)
}

// run runs a program to its end. The service ends it after its time; the machine has 30 s more to
// say so.
func (m *machine) run(r wire.Run) (wire.Answer, error) {
	seconds := r.Seconds
	if seconds == 0 {
		seconds = 60
	}
	return m.ask(wire.Request{Run: &r}, time.Duration(seconds)*time.Second+30*time.Second)
}

// write makes files.
func (m *machine) write(list ...wire.Write) error {
	for _, w := range list {
		if _, err := m.ask(wire.Request{Write: &w}, 30*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// stop switches the machine off, and makes sure of it. One that is lost is killed.
func (m *machine) stop() error {
	if m.lost != "" {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		return m.port.Close()
	}
	text, _ := json.Marshal(wire.Request{Off: true})
	_ = m.port.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = m.port.Write(append(text, '\n'))
	// An emulated machine takes some seconds to switch itself off.
	timer := time.AfterFunc(15*time.Second, func() { _ = m.cmd.Process.Kill() })
	defer timer.Stop()
	err := m.cmd.Wait()
	return errors.Join(err, m.port.Close())
}
