// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// Compiled answers for a compiled policy that no kernel has loaded: checkpolicy's debug mode is
// asked, constraints included. So a distribution's policy can be tried on a host without SELinux.
// It does not tell permissive domains. Its methods are for one goroutine at a time, since question
// and answer share one pipe; Close ends the program.
type Compiled struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	ids map[string]string
}

// choosePrompt ends each answer of checkpolicy's menu.
const choosePrompt = "\nChoose:  "

// OpenCompiled starts checkpolicy on a compiled policy with MLS. The context bounds the program's
// life. An error usually means that the file is no policy, has no MLS, or is of a newer version
// than checkpolicy reads; it repeats what the program said.
func OpenCompiled(ctx context.Context, path string) (*Compiled, error) {
	if _, err := exec.LookPath("checkpolicy"); err != nil {
		return nil, fmt.Errorf("checkpolicy is not installed: install the package checkpolicy: %w", err)
	}
	// It prompts into a buffer that a pipe would fill before anything is seen.
	c := &Compiled{cmd: exec.CommandContext(ctx, "stdbuf", "-o0", "checkpolicy", "-M", "-b", "-d", path), ids: map[string]string{}}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("read policy %s: %w", path, err)
	}
	if _, err := c.answer(); err != nil {
		return nil, errors.Join(fmt.Errorf("read policy %s: %w: is it a compiled policy with MLS?", path, err), c.Close())
	}
	return c, nil
}

// Close ends the program. It has nothing to save.
func (c *Compiled) Close() error {
	err := errors.Join(c.in.Close(), c.cmd.Process.Kill())
	_ = c.cmd.Wait() // killed
	return err
}

// Allowed implements Kernel. A context that the policy does not know gives EINVAL, as the kernel
// does; a class that it does not know gives fs.ErrNotExist. Permissions that it does not know are
// not allowed.
func (c *Compiled) Allowed(source, target, class, permission string) (Answer, error) {
	from, err := c.id(source)
	if err != nil {
		return Answer{}, err
	}
	to, err := c.id(target)
	if err != nil {
		return Answer{}, err
	}
	text, err := c.ask("0", from, to, class)
	if err != nil {
		return Answer{}, err
	}
	_, list, ok := strings.Cut(text, "allowed {")
	list, _, closed := strings.Cut(list, "}")
	if !ok || !closed {
		return Answer{}, fmt.Errorf("class %s: %w", class, fs.ErrNotExist)
	}
	return Answer{Allowed: slices.Contains(strings.Fields(list), permission)}, nil
}

// id gives the number that the program has for a context. Numbers stay valid as long as the program
// runs, so each context is asked for once.
func (c *Compiled) id(label string) (string, error) {
	if id, ok := c.ids[label]; ok {
		return id, nil
	}
	text, err := c.ask("2", label)
	if err != nil {
		return "", err
	}
	_, id, ok := strings.Cut(text, "sid ")
	if !ok {
		return "", fmt.Errorf("context %s: %w", label, syscall.EINVAL)
	}
	c.ids[label] = strings.TrimSpace(id)
	return c.ids[label], nil
}

// ask sends a choice of the menu and what it asks for, a line each.
func (c *Compiled) ask(lines ...string) (string, error) {
	if _, err := io.WriteString(c.in, strings.Join(lines, "\n")+"\n"); err != nil {
		return "", err
	}
	return c.answer()
}

// answer reads up to the next prompt. It reads byte by byte, as the prompt ends without a line end.
func (c *Compiled) answer() (string, error) {
	var text strings.Builder
	for !strings.HasSuffix(text.String(), choosePrompt) {
		b, err := c.out.ReadByte()
		if err != nil {
			return "", fmt.Errorf("checkpolicy ended: %w: %s", err, strings.TrimSpace(text.String()))
		}
		text.WriteByte(b)
	}
	return strings.TrimSuffix(text.String(), choosePrompt), nil
}
