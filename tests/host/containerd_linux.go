// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/clients"
	"cloister/tests/testenv"
)

// Version says which containerd a test wants.
type Version string

// The two that cloister is proved with.
const (
	Distribution Version = "distribution" // Debian 12: 1.6.20
	Current      Version = "current"      // 2.4, built through the module proxy
)

// Options of a daemon.
type Options struct {
	Version Version
	// Config is TOML that is put behind the generated configuration of containerd.
	Config string
	// Cloister is TOML that is put behind the generated configuration of cloister.
	Cloister string
	// Class is the class of cloister's sandboxes; empty: the default.
	Class string
	// Env is put behind the generated environment.
	Env []string
	// CRI leaves containerd's CRI plugins on.
	CRI bool
	// Bin is a folder with containerd's programs; empty: the version's own.
	Bin string
}

// Containerd is a daemon in a place, with its own root, state and socket.
type Containerd struct {
	Place   *Place
	Address string // path of the socket in the place
	Root    string
	Env     []string
	LogFile string
	bin     string
	config  string
	daemon  *exec.Cmd
	done    chan struct{}
}

// StartContainerd starts a daemon in p that ends with the test at the latest. Its log is shown when
// the test fails.
func (p *Place) StartContainerd(t testing.TB, o Options) *Containerd {
	t.Helper()
	c := &Containerd{
		Place: p, Address: "/run/containerd/containerd.sock", Root: filepath.Join(p.Dir, "root"),
		LogFile: filepath.Join(p.Dir, "containerd.log"), config: filepath.Join(p.Dir, "containerd.toml"),
	}
	c.use(t, o)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of containerd's log:\n%s", tail(c.LogFile, 40))
		}
	})
	c.Start(t)
	return c
}

// use has the next start be of that version, with those options.
func (c *Containerd) use(t testing.TB, o Options) {
	t.Helper()
	path := []string{testenv.Build(t)}
	if o.Version == Distribution {
		c.bin = testenv.NeedContainerd(t)
	} else {
		c.bin = cmp.Or(o.Bin, clients.Need(t, clients.Containerd, "containerd"))
		path = append(path, c.bin, clients.Need(t, clients.Runc, "runc"))
	}
	path = append(path, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	c.Env = append([]string{
		"PATH=" + strings.Join(path, ":"), "HOME=/root", "LANG=C.UTF-8", "TMPDIR=/tmp",
		"CONTAINERD_ADDRESS=" + c.Address, "CLOISTER_CONFIG=" + c.Place.WriteCloisterConfig(t, o.Cloister),
	}, o.Env...)
	if o.Class != "" {
		c.Place.WriteClass(t, o.Class)
	}
	if err := os.WriteFile(c.config, []byte(c.containerdConfig(o)+o.Config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Upgrade puts a daemon of another version in this one's place, with its root and state: what runs
// goes on.
func (c *Containerd) Upgrade(t testing.TB, o Options) {
	t.Helper()
	c.Stop(t, "TERM")
	c.use(t, o)
	c.Start(t)
}

func (c *Containerd) containerdConfig(o Options) string {
	off := ""
	if !o.CRI {
		off = `"io.containerd.grpc.v1.cri", `
		if o.Version != Distribution {
			off += `"io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", `
		}
	}
	version := 2
	if o.Version != Distribution {
		version = 3
	}
	// The plugin opt would make /opt/containerd on the host, which is not the place's. otlp would
	// send containerd's own spans where a test expects those of the shim alone. The level is the
	// shims' as well: a test that fails shows the end of the log.
	return fmt.Sprintf(`version = %d
root = %q
state = "/run/containerd"
disabled_plugins = [%s"io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = %q
[debug]
level = "debug"
`, version, c.Root, off, c.Address)
}

// WriteCloisterConfig writes a configuration that points cloister at the build and keeps its
// folders in the place, with more behind it, and gives the file's name.
func (p *Place) WriteCloisterConfig(t testing.TB, more string) string {
	t.Helper()
	flavour := os.Getenv("CLOISTER_GUEST")
	if flavour == "" {
		flavour = "small"
	}
	text := fmt.Sprintf("state = %q\nroot = %q\n[labels]\nmac = \"none\"\n[guest]\nimage = %q\n%s",
		"/run/cloister", filepath.Join(p.Dir, "cloister"),
		filepath.Join(testenv.Build(t), "guest", flavour), more)
	// Never auto: no test waits for a build that another one has asked for.
	fromTemplate := testenv.Templates(t) && flavour == "small" && !strings.Contains(more, "[template]")
	switch {
	case fromTemplate:
		text += "\n[template]\nmode = \"manual\"\n"
	case !strings.Contains(more, "[template]"):
		text += "\n[template]\nmode = \"off\"\n"
	}
	name := filepath.Join(p.Dir, "cloister.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if fromTemplate {
		p.shareTemplates(t, name)
	}
	return name
}

// WriteClass has the configuration of WriteCloisterConfig say a class.
func (p *Place) WriteClass(t testing.TB, class string) {
	t.Helper()
	name := filepath.Join(p.Dir, "config.d", "class.toml")
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(fmt.Sprintf("class = %q\n", class)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Start starts the daemon, again after Stop, and waits until it serves.
func (c *Containerd) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// The cleanup of the place ends it: t.Context ends earlier than the test's own clean-up steps.
	cmd := c.Place.Command(context.WithoutCancel(t.Context()), filepath.Join(c.bin, "containerd"), "--config", c.config)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.daemon, c.done = cmd, make(chan struct{})
	go c.wait(cmd, c.done)
	c.awaitServing(t)
}

func (c *Containerd) wait(cmd *exec.Cmd, done chan struct{}) {
	defer close(done)
	_ = cmd.Wait() // its log tells why it ended
}

func (c *Containerd) awaitServing(t testing.TB) {
	t.Helper()
	awaitServing(t, "containerd", c.LogFile, c.done, func() *exec.Cmd { return c.Ctr(t.Context(), "images", "ls") })
}

// Stop ends the daemon with signal ("TERM", "KILL") and waits for its end; what it runs stays. The
// signal goes to the daemon itself, since nsenter, which has started it, passes none on.
func (c *Containerd) Stop(t testing.TB, signal string) {
	t.Helper()
	for pid, line := range c.Place.Processes(t) {
		if strings.HasPrefix(line, filepath.Join(c.bin, "containerd")+" --config "+c.config) {
			c.Place.Run(t, "kill", "-"+signal, fmt.Sprint(pid))
		}
	}
	select {
	case <-c.done:
	case <-time.After(Patience):
		t.Fatal("containerd does not end")
	}
}

// Keep has the daemon started anew, after two seconds, whenever it ends, until the place does. For
// tests in which somebody else ends the daemon and relies on its coming back, as under systemd.
func (c *Containerd) Keep(t testing.TB) {
	t.Helper()
	c.Stop(t, "TERM")
	log, err := os.OpenFile(c.LogFile, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := c.Place.Command(context.WithoutCancel(t.Context()), "sh", "-c",
		`while :; do "$1" --config "$2"; sleep 2; done`, "keep", filepath.Join(c.bin, "containerd"), c.config)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.daemon, c.done = cmd, make(chan struct{})
	go c.wait(cmd, c.done)
	c.awaitServing(t)
}

// Ctr prepares a ctr command.
func (c *Containerd) Ctr(ctx context.Context, args ...string) *exec.Cmd {
	// Without the flag ctr gives up after 10 s, which a busy daemon may need.
	cmd := c.Place.Command(ctx, filepath.Join(c.bin, "ctr"), append([]string{"--connect-timeout", "30s"}, args...)...)
	cmd.Env = c.Env
	return cmd
}

// Result is what a command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs ctr to its end.
func (c *Containerd) Run(t testing.TB, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), CallLimit)
	defer cancel()
	return c.Finish(ctx, t, c.Ctr(ctx, args...))
}

// Finish runs cmd to its end and collects its outputs where they are not set yet.
func (c *Containerd) Finish(ctx context.Context, t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		c.Stacks(t)
		t.Fatalf("%s: %v\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), context.Cause(ctx), stdout.String(), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{Stdout: stdout.String(), Stderr: withoutWarnings(stderr.String()), Code: cmd.ProcessState.ExitCode()}
}

// withoutWarnings leaves out what ctr says about the host's cgroup version.
func withoutWarnings(text string) string {
	lines := slices.Collect(strings.Lines(text))
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "DEPRECATION:") }), "")
}

// Must runs ctr and fails the test unless it exits with 0; it gives the standard output.
func (c *Containerd) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := c.Run(t, args...)
	if r.Code != 0 {
		t.Fatalf("ctr %s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// tail gives the last lines of a log. containerd's lines about each plugin that it loads would fill
// them, and are left out.
func tail(file string, lines int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	all = slices.DeleteFunc(all, func(line string) bool {
		return strings.Contains(line, "load plugin") || strings.Contains(line, "loading plugin")
	})
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
