// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/lab/wire"
)

// service does what the host asks, one request after the other.
type service struct {
	audit   *audit
	runs    int
	staying map[int]*exec.Cmd
}

// serve answers until it is told to switch off or the host hangs up.
func serve() error {
	port, err := findPort()
	if err != nil {
		return err
	}
	a, err := newAudit()
	if err != nil {
		return err
	}
	s := &service{audit: a, staying: map[int]*exec.Cmd{}}
	lines := bufio.NewReaderSize(port, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("port: %w", err)
		}
		var request wire.Request
		if err := json.Unmarshal(line, &request); err != nil {
			return fmt.Errorf("request: %w", err)
		}
		if request.Off {
			return nil
		}
		answer := s.answer(request)
		var failed error
		if answer.Audit, answer.Lost, failed = a.take(); failed != nil && answer.Failure == "" {
			answer.Failure = failed.Error()
		}
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		if _, err := port.Write(append(text, '\n')); err != nil {
			return fmt.Errorf("port: %w", err)
		}
	}
}

// findPort opens the port by its name.
func findPort() (*os.File, error) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); pause() {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(text)) == wire.Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
			}
		}
	}
	return nil, errors.New("no port of the lab's name")
}

func (s *service) answer(r wire.Request) wire.Answer {
	var answer wire.Answer
	var err error
	switch {
	case r.Run != nil:
		answer, err = s.run(*r.Run)
	case r.End != nil:
		err = s.end(r.End.PID)
	case r.Write != nil:
		err = write(*r.Write)
	case r.Read != nil:
		answer.Out, err = read(*r.Read)
	case r.Policy != nil:
		err = setPolicy(*r.Policy)
	default:
		err = errors.New("empty request")
	}
	if err != nil {
		answer.Failure = err.Error()
	}
	return answer
}

// run starts a program and waits for its end, or for its first line.
func (s *service) run(r wire.Run) (wire.Answer, error) {
	limit := time.Duration(cmp.Or(r.Seconds, 60)) * time.Second
	s.runs++
	output := fmt.Sprintf("/run/lab/out.%d", s.runs)
	argv, made := r.Argv, wire.Write{Path: output, Mode: 0o666}
	if r.Entry != nil {
		text, err := json.Marshal(r.Entry)
		if err != nil {
			return wire.Answer{}, err
		}
		argv = append([]string{r.Entry.Through, string(text), output}, argv...)
		made.Context = r.Entry.Output
	}
	if err := write(made); err != nil {
		return wire.Answer{}, err
	}
	defer func() { _ = os.Remove(output) }()
	if r.Stay {
		return s.stay(r, argv, output, limit)
	}
	return finish(r, argv, output, limit)
}

// stay starts a program that goes on. One that is not entered writes where the entered ones do.
func (s *service) stay(r wire.Run, argv []string, output string, limit time.Duration) (wire.Answer, error) {
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	if r.Entry == nil {
		file, err := os.OpenFile(output, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return wire.Answer{}, err
		}
		defer func() { _ = file.Close() }()
		cmd.Stdout, cmd.Stderr = file, file
	}
	if err := cmd.Start(); err != nil {
		return wire.Answer{}, err
	}
	s.staying[cmd.Process.Pid] = cmd
	line, err := firstLine(output, limit)
	return wire.Answer{PID: cmd.Process.Pid, Out: line}, err
}

// finish runs a program to its end.
func finish(r wire.Run, argv []string, output string, limit time.Duration) (wire.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.WaitDelay = time.Second
	var buffer bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buffer, &buffer
	if err := cmd.Start(); err != nil {
		return wire.Answer{}, err
	}
	answer := wire.Answer{PID: cmd.Process.Pid}
	err := cmd.Wait()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		answer.Exit = -1
	case exited:
		answer.Exit = exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			answer.Exit = 128 + int(status.Signal())
		}
	case err != nil:
		return answer, err
	}
	text, err := os.ReadFile(output)
	answer.Out = string(text) + buffer.String()
	return answer, err
}

// firstLine waits for a line in a file.
func firstLine(path string, atMost time.Duration) (string, error) {
	for deadline := time.Now().Add(atMost); time.Now().Before(deadline); pause() {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if line, _, found := strings.Cut(string(text), "\n"); found {
			return line, nil
		}
	}
	text, _ := os.ReadFile(path)
	return string(text), errors.New("no line of output")
}

// end kills a program that stays, and waits for it.
func (s *service) end(pid int) error {
	cmd := s.staying[pid]
	if cmd == nil {
		return fmt.Errorf("process %d is not one that stays", pid)
	}
	delete(s.staying, pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return nil
}

func write(w wire.Write) error {
	if w.Anew {
		if err := os.RemoveAll(w.Path); err != nil {
			return err
		}
	}
	if err := put(w); err != nil {
		return err
	}
	if w.Context == "" {
		return nil
	}
	return setContext(w.Path, w.Context)
}

// put makes what is to be labelled.
func put(w wire.Write) error {
	mode := os.FileMode(cmp.Or(w.Mode, 0o755))
	switch {
	case w.Label:
		return nil
	case w.Folder:
		return os.MkdirAll(w.Path, mode)
	case w.Device != [2]uint32{}:
		return unix.Mknod(w.Path, unix.S_IFBLK|0o600, int(unix.Mkdev(w.Device[0], w.Device[1])))
	case w.Link != "":
		return os.Symlink(w.Link, w.Path)
	}
	if err := os.MkdirAll(filepath.Dir(w.Path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(w.Path, w.Data, mode); err != nil {
		return err
	}
	if w.Size == 0 {
		return nil
	}
	return os.Truncate(w.Path, w.Size)
}

func read(r wire.Read) (string, error) {
	if r.Context {
		text := make([]byte, 4096)
		n, err := unix.Lgetxattr(r.Path, "security.selinux", text)
		if err != nil {
			return "", fmt.Errorf("context of %s: %w", r.Path, err)
		}
		return strings.TrimRight(string(text[:n]), "\x00"), nil
	}
	file, err := os.Open(r.Path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, 1<<20))
	return string(text), err
}

func setPolicy(p wire.Policy) error {
	if p.Load != "" {
		if err := loadPolicy(p.Load); err != nil {
			return err
		}
	}
	if p.Enforce == nil {
		return nil
	}
	text := "0"
	if *p.Enforce {
		text = "1"
	}
	return os.WriteFile("/sys/fs/selinux/enforce", []byte(text), 0)
}
