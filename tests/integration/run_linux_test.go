// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/console"

	"cloister/tests/host"
)

// TestSmoke runs one container under each containerd.
func TestSmoke(t *testing.T) {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []host.Version{host.Distribution, host.Current} {
		t.Run(string(version), func(t *testing.T) {
			b := newBed(t, host.Options{Version: version})
			r := b.run(t, "uname", nil, "uname", "-r")
			got := strings.TrimSpace(r.Stdout)
			if r.Code != 0 || got == "" {
				t.Fatalf("uname -r = %q, exit %d\n%s", got, r.Code, r.Stderr)
			}
			if same := got == strings.TrimSpace(string(kernel)); same == isCloister() {
				t.Errorf("uname -r = %q, the host's is %q", got, kernel)
			}
			b.Start(t, "two", nil)
			if r := b.Exec(t, "two", "e", "echo", "exec"); r.Stdout != "exec\n" || r.Code != 0 {
				t.Errorf("exec = %+v", r)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	b := newBed(t, host.Options{})
	tests := []struct {
		name    string
		command []string
		code    int
	}{
		{"zero", []string{"true"}, 0},
		{"highest", []string{"sh", "-c", "exit 255"}, 255},
		// By a child: process 1 of a pid namespace cannot be killed from inside.
		{"killed", []string{"sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137},
		{"not-found-by-shell", []string{"sh", "-c", "/nowhere"}, 127},
		{"not-executable-by-shell", []string{"sh", "-c", "/etc/passwd"}, 126},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := b.run(t, tt.name, nil, tt.command...); r.Code != tt.code {
				t.Errorf("exit %d, want %d\n%s", r.Code, tt.code, r.Stderr)
			}
		})
	}
	for name, text := range map[string]string{
		"/nowhere":    "no such file or directory",
		"/etc/passwd": "permission denied", "nowhere": "executable file not found",
	} {
		r := b.run(t, "refused", nil, name)
		if r.Code == 0 || !strings.Contains(r.Stderr, text) {
			t.Errorf("run %s: exit %d, %q, want an error with %q", name, r.Code, r.Stderr, text)
		}
	}
}

func TestProcess(t *testing.T) {
	b := newBed(t, host.Options{})
	b.want(t, "wishes", "v w|/var/www|33 33 www-data", []string{"--env", "A=v w", "--cwd", "/var/www", "--user", "www-data"}, "sh", "-c",
		`echo "$A|$(pwd)|$(id -u) $(id -g) $(id -un)"`)
	b.want(t, "ids", "1234 5678", []string{"--user", "1234:5678"}, "sh", "-c", "echo $(id -u) $(id -g)")
	b.want(t, "first", "1 lo", nil, "sh", "-c", "echo $$ $(ls /sys/class/net | grep -v -e sit0 -e tunl0 -e bonding_masters)")
	r := b.run(t, "both", nil, "sh", "-c", "echo out; echo err >&2")
	if r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("stdout %q, stderr %q, want out and err", r.Stdout, r.Stderr)
	}
	b.want(t, "arguments", `100000|a b|"c"|$d|;|`, nil, "sh", "-c", `echo "${#1}|$2|$3|$4|$5|"`, "sh",
		strings.Repeat("x", 100000), "a b", `"c"`, "$d", ";")
}

func TestStdin(t *testing.T) {
	b := newBed(t, host.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	// ctr run does not pass the end of its input on; ctr task exec does.
	cmd := b.Ctr(ctx, b.Args("line", []string{"--rm"}, "sh", "-c", "read line; echo got $line")...)
	cmd.Stdin = strings.NewReader("hello\n")
	if r := b.Finish(ctx, t, cmd); r.Stdout != "got hello\n" || r.Code != 0 {
		t.Errorf("read = %+v", r)
	}
	b.Start(t, "c", nil)
	const size = 20 << 20 // more than all buffers on the way hold
	cmd = b.Ctr(ctx, "task", "exec", "--exec-id", "sum", "c", "sha256sum")
	sum := sha256.New()
	cmd.Stdin = io.TeeReader(io.LimitReader(&pattern{}, size), sum)
	r := b.Finish(ctx, t, cmd)
	if want := hex.EncodeToString(sum.Sum(nil)) + "  -\n"; r.Stdout != want {
		t.Errorf("sha256sum of %d bytes = %q, want %q", size, r.Stdout, want)
	}
}

// pattern reads as bytes that do not repeat soon.
type pattern struct{ state uint64 }

func (p *pattern) Read(buf []byte) (int, error) {
	for i := range buf {
		p.state = p.state*6364136223846793005 + 1442695040888963407
		buf[i] = byte(p.state >> 56)
	}
	return len(buf), nil
}

// TestOutputBitForBit sends 100 MB through stdout.
func TestOutputBitForBit(t *testing.T) {
	b := newBed(t, host.Options{})
	const size = 100_000_000
	script := fmt.Sprintf("dd if=/dev/urandom of=/tmp/d bs=1000000 count=%d 2>/dev/null; sha256sum </tmp/d >&2; cat /tmp/d", size/1_000_000)
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := b.Ctr(ctx, b.Args("big", []string{"--rm"}, "sh", "-c", script)...)
	sum, count := sha256.New(), new(counter)
	cmd.Stdout = io.MultiWriter(sum, count)
	r := b.Finish(ctx, t, cmd)
	if want := hex.EncodeToString(sum.Sum(nil)) + "  -\n"; r.Stderr != want || *count != size {
		t.Errorf("%d bytes with sum %q arrived, want %d with %q", *count, want, size, r.Stderr)
	}
}

type counter int64

func (c *counter) Write(buf []byte) (int, error) {
	*c += counter(len(buf))
	return len(buf), nil
}

// TestOutputAtExit sees that the last words of a process are not lost, many times.
func TestOutputAtExit(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	for i := range 10 {
		// More than a pipe holds: some of it is still on its way when the process ends.
		r := b.Exec(t, "c", fmt.Sprint("e", i), "sh", "-c", "seq 20000")
		if lines := strings.Count(r.Stdout, "\n"); lines != 20000 || !strings.HasSuffix(r.Stdout, "\n20000\n") {
			t.Errorf("exec %d: %d lines arrived, want 20000", i, lines)
		}
	}
}

// TestUnreadOutputBlocksOnlyItsWriter has clients go away and leave a container's output unread:
// the writer waits, nothing else does, and not a byte is lost when somebody reads at last.
func TestUnreadOutputBlocksOnlyItsWriter(t *testing.T) {
	b := newBed(t, host.Options{})
	const size = 1 << 20 // more than pipes and streams hold: the writer has to wait
	script := fmt.Sprintf("until [ -e /go ]; do sleep 0.1; done; head -c %d /dev/zero; touch /done; sleep 1000", size)
	unread := func(id string) (fifo string) {
		dir := b.folder(t, "fifos-"+id, nil)
		b.Start(t, id, []string{"--fifo-dir", dir}, "sh", "-c", script)
		if r := b.Exec(t, id, "go", "touch", "/go"); r.Code != 0 {
			t.Fatalf("exec = %+v", r)
		}
		found, err := filepath.Glob(filepath.Join(dir, "*", id+"-stdout"))
		if err != nil || len(found) != 1 {
			t.Fatalf("standard output of %s: %q, %v", id, found, err)
		}
		return found[0]
	}
	fifo := unread("c")
	b.say(t, "beside", "waits 1000", "test -e /done || echo waits $(seq 1000 | tail -n 1)")
	unread("killed")
	b.Must(t, "task", "kill", "--signal", "KILL", "killed")
	b.AwaitStatus(t, "killed", "STOPPED")
	b.wantDeleted(t, "killed", 137)

	out, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if n, err := io.CopyN(io.Discard, out, size); err != nil {
		t.Errorf("read %d bytes: %v", n, err)
	}
	if wrong := host.Await(host.Patience, func() string { return b.Exec(t, "c", "done", "ls", "/done").Stderr }); wrong != "" {
		t.Errorf("the writer still waits: %s", wrong)
	}
}

func TestTerminal(t *testing.T) {
	b := newBed(t, host.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	// The size comes with ctr's resize after the start: wait for it inside.
	script := "test -t 0 && test -t 1 && echo terminal; until stty size | grep -q '37 91'; do sleep 0.1; done; stty size; " +
		"read line; echo got:$line; exit 7"
	cmd := b.Ctr(ctx, b.Args("tty", []string{"--rm", "--tty"}, "sh", "-c", script)...)
	typing := host.Type(t, "word\n")
	r := host.OnTerminal(t, cmd, func(terminal console.Console, shown string) {
		typing(terminal, shown)
		if err := terminal.Resize(console.WinSize{Width: 91, Height: 37}); err != nil {
			t.Error(err)
		}
	})
	shown := strings.ReplaceAll(r.Stdout, "\r", "")
	for _, want := range []string{"terminal\n", "37 91\n", "got:word\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the terminal shows %q, want %q in it", shown, want)
		}
	}
	if r.Code != 7 {
		t.Errorf("exit %d, want 7", r.Code)
	}
}

// TestManyAtOnce starts several containers side by side.
func TestManyAtOnce(t *testing.T) {
	b := newBed(t, host.Options{})
	const count = 4
	results := make(chan string, count)
	for i := range count {
		go func() {
			r := b.run(t, fmt.Sprint("c", i), nil, "echo", "-n", "x")
			results <- r.Stdout + r.Stderr
		}()
	}
	for range count {
		if got := <-results; got != "x" {
			t.Errorf("got %q, want x", got)
		}
	}
}

// TestEntropy asks two guests of one image for randomness as soon as they run: neither waits for
// it, and they differ.
func TestEntropy(t *testing.T) {
	b := newBed(t, host.Options{})
	var seen [2]string
	for i := range seen {
		r := b.run(t, fmt.Sprint("c", i), nil, "sh", "-c",
			"head -c 16 /dev/random | od -A n -t x1; cat /proc/sys/kernel/random/entropy_avail")
		random, bits, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
		// 256 bits is what a kernel shows once its random pool is ready.
		if bits != "256" || r.Code != 0 {
			t.Errorf("run = %+v, want 256 bits of entropy", r)
		}
		seen[i] = random
	}
	if seen[0] == seen[1] {
		t.Errorf("two guests have the same random bytes: %s", seen[0])
	}
}
