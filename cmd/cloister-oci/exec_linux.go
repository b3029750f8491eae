// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// execFlags are those of exec. Podman and CRI-O use --process, with a file that has everything; the
// other flags are for people and for scripts.
type execFlags struct {
	processFlags

	file, cwd, user, label, apparmor string
	env, caps                        []string
	groups                           []uint
	terminal, detach, noNewPrivs     bool
}

// newExec is the verb exec.
func newExec(o *options) *cobra.Command {
	f := &execFlags{}
	c := &cobra.Command{
		Use: "exec [flags] ID [COMMAND...]", Short: "run a further process in a container", Args: cobra.MinimumNArgs(1),
		// No context: a signal is for the process in the guest and is sent on by wait.
		RunE: func(_ *cobra.Command, args []string) error { return o.exec(args[0], args[1:], f) },
	}
	f.register(c)
	s := c.Flags()
	s.StringVarP(&f.file, "process", "p", "", "`file` with the process, as JSON")
	s.StringVar(&f.cwd, "cwd", "", "working folder")
	s.StringVarP(&f.user, "user", "u", "", "`uid[:gid]`")
	s.UintSliceVarP(&f.groups, "additional-gids", "g", nil, "further groups")
	s.StringArrayVarP(&f.env, "env", "e", nil, "`NAME=value`, once for each")
	s.StringArrayVarP(&f.caps, "cap", "c", nil, "a capability beside those of the container")
	s.BoolVarP(&f.terminal, "tty", "t", false, "the process gets a terminal")
	s.BoolVarP(&f.detach, "detach", "d", false, "end when the process has started")
	s.StringVar(&f.label, "process-label", "", "SELinux label of the process")
	s.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile of the process")
	s.BoolVar(&f.noNewPrivs, "no-new-privs", false, "the process gains no privileges")
	s.Bool("ignore-paused", false, "accepted for engines")
	s.Bool("no-subreaper", false, "accepted for engines")
	s.StringArray("cgroup", nil, "accepted for engines; cgroups of the container are the guest's")
	return c
}

// exec runs a process; without --detach it ends with the process's status. With --detach it ends
// once the pid is written; the proxy stays, and its exit status is the process's.
func (o *options) exec(id string, command []string, f *execFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	d, r, err := o.load(id)
	if err != nil {
		return err
	}
	p, err := f.process(d, command)
	if err != nil {
		return err
	}
	if err := checkTerminal(p.Terminal, f.console, f.detach); err != nil {
		return err
	}
	spec, err := json.Marshal(p)
	if err != nil {
		return err
	}
	// The daemon's address is read here and the connection made by the proxy: that one has to stay.
	address, err := os.ReadFile(d.address())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("container %s is stopped: %w", id, errNoDaemon)
	}
	if err != nil {
		return err
	}
	// Made before the proxy: a console socket that does not answer must not leave a process behind.
	terminal, screen, err := openTerminal(p.Terminal, f.console)
	if err != nil {
		return err
	}
	defer screen.restore()
	// The id of an exec is no name that anybody else uses; random, so that two at once do not meet.
	c, err := spawn(order{
		Socket: socketPath(string(address)), ID: id, Exec: "exec-" +
			strings.ToLower(rand.Text()), Process: spec, Terminal: p.Terminal, Machine: r.Machine,
	}, terminal)
	if err != nil {
		return err
	}
	reached("exec: proxy answered")
	// The engine reads the file after this program has ended.
	if err := writePID(f.pidFile, c.PID); err != nil {
		// The engine would wait for a pid that it does not have.
		c.drop()
		return err
	}
	reached("exec: pid written")
	if err := c.keep(); err != nil || f.detach {
		return err
	}
	err = c.wait()
	// The proxy has ended; its last output may still be in the terminal.
	screen.drain()
	return err
}

// process is the file's, or else the container's own with what the flags change. With neither a
// file nor a command it is an error: there is no default.
func (f *execFlags) process(d dir, command []string) (*specs.Process, error) {
	if f.file != "" {
		data, err := readLimited(f.file)
		if err != nil {
			return nil, err
		}
		p := &specs.Process{}
		if err := json.Unmarshal(data, p); err != nil {
			return nil, fmt.Errorf("--process %q: %w", f.file, err)
		}
		return p, nil
	}
	// The bundle that was written for the daemon: the engine's own may be gone by now.
	data, err := readLimited(d.config())
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, err
	}
	if spec.Process == nil || len(command) == 0 {
		return nil, errors.New("exec: want --process FILE or a command")
	}
	return spec.Process, f.change(spec.Process, command)
}

// change applies the flags. A capability is added to three of the sets; the ambient and inheritable
// ones stay.
func (f *execFlags) change(p *specs.Process, command []string) error {
	// The size of the terminal is that of the client, which resize sends.
	p.Args, p.Terminal, p.ConsoleSize = command, f.terminal, nil
	p.Env = append(p.Env, f.env...)
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.label != "" {
		p.SelinuxLabel = f.label
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.noNewPrivs {
		p.NoNewPrivileges = true
	}
	if c := p.Capabilities; len(f.caps) > 0 {
		if c == nil {
			c = &specs.LinuxCapabilities{}
			p.Capabilities = c
		}
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
			*set = append(*set, f.caps...)
		}
	}
	for _, g := range f.groups {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	if f.user == "" {
		return nil
	}
	// Names of users are not looked up: the file that has them is the guest's.
	uid, gid, both := strings.Cut(f.user, ":")
	for _, n := range []struct {
		text string
		to   *uint32
		want bool
	}{{uid, &p.User.UID, true}, {gid, &p.User.GID, both}} {
		if !n.want {
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 32)
		if err != nil {
			return fmt.Errorf("--user %q: want numbers, as 1000 or 1000:1000", f.user)
		}
		*n.to = uint32(v)
	}
	return nil
}

// readLimited reads a file of at most maxSpec bytes; "-" is stdin. update reads its limits by it
// too.
func readLimited(name string) ([]byte, error) {
	var f io.ReadCloser = os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err == nil && len(data) > maxSpec {
		err = fmt.Errorf("%q: over %d bytes", name, maxSpec)
	}
	return data, err
}
