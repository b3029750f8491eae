// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// runTop is the verb top. Without a terminal it prints one table, so that scripts and pipes work.
func runTop(std stdio) *cobra.Command {
	c := newCommand(std, "top [--interval DURATION] [--sort COLUMN] [--once]",
		"Shows what each sandbox uses of the host, again and again: processor, memory, reads and writes of disks.\n"+
			"Keys: "+keysText+".\nWithout a terminal, or with --once, it prints one table of one interval and ends.")
	c.withOutput(formatTable)
	interval := c.Flags().Duration("interval", 2*time.Second, "`time` between two looks, at least 100ms")
	// The columns' order is that of their keys.
	column := c.Flags().String("sort", "cpu", "`column` that the first line is the first of: "+strings.Join(orderNames(), ", "))
	once := c.Flags().Bool("once", false, "print one table and end")
	_ = c.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(orderNames(), cobra.ShellCompDirectiveNoFileComp))
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		at := slices.Index(orderNames(), *column)
		if at < 0 {
			return wrongUsage(c.Command, fmt.Errorf("--sort %q: want %s", *column, strings.Join(orderNames(), ", ")))
		}
		// A look at many sandboxes reads many files of /proc.
		if *interval < 100*time.Millisecond {
			return wrongUsage(c.Command, fmt.Errorf("--interval %v: want 100ms or more", *interval))
		}
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		view := &topView{site: s, order: orders()[at], interval: *interval}
		screen, isFile := std.out.(*os.File)
		// Both sides must be terminals: keys come from the one, frames go to the other.
		if *once || *c.format != formatTable || *c.asJSON || !isFile || !term.IsTerminal(int(screen.Fd())) || !term.IsTerminal(0) {
			return view.once(ctx, c)
		}
		return view.live(ctx, os.Stdin, screen)
	})
}

const keysText = "c m i a n p l sort by cpu, memory, io, age, name, phase, label; space looks now; q ends"

// orderNames are the words for --sort, in the order of the keys.
func orderNames() []string {
	var names []string
	for _, o := range orders() {
		names = append(names, o.name)
	}
	return names
}

// topView is what is on the screen. One goroutine uses it; keys come over a channel.
type topView struct {
	site     *site
	order    order
	interval time.Duration
	before   counters
	list     []usage
}

// look replaces the list, and the counters that the next look is compared with.
func (v *topView) look() (err error) {
	v.list, v.before, err = v.site.usages(v.before)
	return err
}

// once looks twice, and prints what lies between. Rates need two looks; the first one alone would
// print zeros.
func (v *topView) once(ctx context.Context, c command) error {
	if err := v.look(); err != nil {
		return err
	}
	select {
	case <-time.After(v.interval):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := v.look(); err != nil {
		return err
	}
	slices.SortFunc(v.list, v.order.less)
	if done, err := c.emit(v.list); done {
		return err
	}
	return printUsages(c.std.out, v.list)
}

// Control sequences of terminals. ECMA-48 and xterm; every terminal of today knows them.
const (
	otherScreen = "\x1b[?1049h\x1b[?25l" // leaves what was there before as it is; no cursor
	firstScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	restOfLine  = "\x1b[K"
	restOfAll   = "\x1b[J"
)

// live draws until q or the end of ctx. The terminal is as before then. Raw mode gives keys without
// Enter, and takes ^C away, which is read as a key then.
func (v *topView) live(ctx context.Context, in, screen *os.File) (err error) {
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return err
	}
	if _, err := io.WriteString(screen, otherScreen); err != nil {
		return errors.Join(err, term.Restore(int(in.Fd()), was))
	}
	// Also after an error: a terminal in raw mode shows nothing that is typed.
	defer func() {
		_, text := io.WriteString(screen, firstScreen)
		err = errors.Join(err, text, term.Restore(int(in.Fd()), was))
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan byte)
	go readKeys(ctx, in, keys)
	tick := time.NewTicker(v.interval)
	defer tick.Stop()
	for again := true; ; {
		if again {
			if err := v.look(); err != nil {
				return err
			}
		}
		if err := v.draw(screen); err != nil {
			return err
		}
		again = false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			again = true
		// A new size needs a new frame, not a new look.
		case <-resized:
		case key, open := <-keys:
			// q, ^C, or the end of input.
			if !open || key == 'q' || key == 3 { // 3 is Control-C: the terminal is raw
				return nil
			}
			again = key == ' '
			v.press(key)
		}
	}
}

// readKeys sends what is typed. It ends with the process: a read of a terminal cannot be ended. The
// channel is unbuffered: a key that comes after the end is dropped.
func readKeys(ctx context.Context, in io.Reader, keys chan<- byte) {
	defer close(keys)
	one := make([]byte, 1)
	for {
		if n, err := in.Read(one); err != nil || n == 0 {
			return
		}
		select {
		case keys <- one[0]:
		case <-ctx.Done():
			return
		}
	}
}

// press changes the order if the key is one's. Others do nothing.
func (v *topView) press(key byte) {
	for _, o := range orders() {
		if o.key == key {
			v.order = o
		}
	}
}

// draw writes one frame in one call, so that the terminal does not flicker.
func (v *topView) draw(screen *os.File) error {
	width, height, err := term.GetSize(int(screen.Fd()))
	if err != nil {
		return err
	}
	_, err = io.WriteString(screen, v.frame(width, height, time.Now()))
	return err
}

// frame is the whole screen as text: as many sandboxes as fit, no line longer than the screen.
// Lines are cut by characters, since the terminal would wrap longer ones and the frame would
// scroll.
func (v *topView) frame(width, height int, now time.Time) string {
	slices.SortFunc(v.list, v.order.less)
	// The sum is of all sandboxes, also of those that do not fit.
	var sum usage
	for _, u := range v.list {
		sum.CPU, sum.Memory = sum.CPU+u.CPU, sum.Memory+u.Memory
	}
	var table bytes.Buffer
	_ = printUsages(&table, v.list) // a buffer takes everything
	lines := append([]string{
		fmt.Sprintf("cloister top  %s  %d sandboxes  cpu %.0f%%  memory %s  by %s",
			now.Format(time.TimeOnly), len(v.list), sum.CPU, units.BytesSize(float64(sum.Memory)), v.order.name),
		keysText, "",
	}, strings.Split(strings.TrimRight(table.String(), "\n"), "\n")...)
	// The heading is kept, and the first sandboxes in the order chosen.
	lines = lines[:min(len(lines), max(height, 1))]
	for i, line := range lines {
		if cut := []rune(line); len(cut) > width {
			lines[i] = string(cut[:max(width, 0)])
		}
	}
	return home + strings.Join(lines, restOfLine+"\r\n") + restOfLine + restOfAll
}

// printUsages prints the table, for a frame and for --once.
func printUsages(out io.Writer, list []usage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tID\tCLASS\tSTATE\tCPU\tMEMORY\tREAD/s\tWRITTEN/s\tAGE\tPHASE\tLABEL")
	size := func(bytes float64) string { return units.BytesSize(max(bytes, 0)) }
	for _, u := range list {
		id := string(u.ID)
		if len(id) > 20 { // as in ps
			id = id[:12]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f%%\t%s\t%s\t%s\t%s\t%s\t%s\n", u.Namespace, id, u.Class, u.State, u.CPU,
			size(float64(u.Memory)), size(u.Read), size(u.Written), age(time.Duration(u.AgeSeconds)*time.Second),
			cmp.Or(u.Phase, "-"), cmp.Or(u.Label, "none"))
	}
	return w.Flush()
}
