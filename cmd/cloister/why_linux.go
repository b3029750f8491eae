// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cloister/cmd/internal/avc"
	"cloister/labels"
)

// explained is one kind of denial, with how often it came. The embedded answer gives judgement,
// reason and remedy their place in the JSON.
type explained struct {
	avc.Denial
	Count int       `json:"count"`
	Last  time.Time `json:"last,omitzero"`
	Who   string    `json:"who"`
	answer
}

// Where denials are written: by auditd, else by the kernel. The kernel's log is a ring and
// rate-limited; auditd's file is complete.
const (
	auditLog  = "var/log/audit/audit.log"
	kernelLog = "dev/kmsg"
)

// runWhy is the verb why.
func runWhy(std stdio) *cobra.Command {
	c := newCommand(std, "why [--level LEVEL] [--log FILE] [--json] [ID]",
		"Explains what SELinux's policy, an AppArmor profile or a list of system calls denied a sandbox: which\n"+
			"file or socket, whose, and the one command that helps, or that it looks like an attack. Without ID\n"+
			"and --level: every denial that has to do with guests.\n"+
			"Ends with status 3 when something looks like an attack.")
	c.withOutput("table")
	text := c.Flags().String("level", "", "the `level` of a sandbox that is gone, as s0:c1,c2")
	log := c.Flags().String("log", "", "`file` to read, or - for standard input (default /"+auditLog+" and /"+kernelLog+")")
	c.ofSandboxes()
	return c.runs(0, 1, func(ctx context.Context, rest []string) error {
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		// Before the logs are read: a misspelt id is the usual mistake.
		about, err := s.subject(rest, *text)
		if err != nil {
			return err
		}
		denials, err := s.denials(*log)
		if err != nil {
			return err
		}
		// An incomplete log must not look like a quiet one.
		if *log == "" && !there(s.path(auditLog)) {
			fmt.Fprintln(std.err, "only the kernel's log was read, which leaves denials out when many come at once: install auditd")
		}
		// Without the picture, rules about other tenants find nothing; the rest still explains.
		p, err := s.look(ctx)
		if err != nil {
			fmt.Fprintf(std.err, "the holders of levels are not known: %v\n", err)
		}
		view := scene{levels: p.Levels, files: p.Files, state: s.config.State, root: s.config.Root, image: s.config.Guest.Image}
		list := view.all(slices.DeleteFunc(denials, func(d avc.Denial) bool { return !about.has(d) }))
		done, err := c.emit(list)
		if !done && err == nil {
			err = printWhy(std.out, about, list)
		}
		// Status 3 also with JSON.
		if n := attacks(list); err == nil && n > 0 {
			return notWell("why: %d kinds of denials look like an attack", n)
		}
		return err
	})
}

// subject is what is asked about. since matters for a level: another sandbox may have had it
// before.
type subject struct {
	name    string
	level   *labels.Level
	profile string
	pids    []int
	since   time.Time // levels are used again
	all     bool      // every guest of the host
}

// subject turns the arguments into what is asked about. A sandbox is known by its level or its
// profile, and by its processes.
func (s *site) subject(rest []string, text string) (subject, error) {
	if text != "" {
		level, err := labels.ParseLevel(text)
		return subject{name: "level " + text, level: &level}, err
	}
	if len(rest) == 0 {
		return subject{name: "guests of this host", all: true}, nil
	}
	b, err := s.find(rest[0])
	if err != nil {
		return subject{}, fmt.Errorf("%w; for one that is gone give its level: --level", err)
	}
	about := subject{
		name: "sandbox " + b.name() + " (class " + b.class() + ")", since: b.record.Created, profile: b.record.Facts["profile"],
	}
	if level, single := b.label().Range.Single(); !b.label().IsZero() && single {
		about.level = &level
	}
	// A process that ran before it had its label is found by its pid.
	for _, e := range b.record.Effects {
		if e.Process.PID != 0 {
			about.pids = append(about.pids, e.Process.PID)
		}
	}
	return about, nil
}

// has tells whether a denial is about the subject, as the one denied or the one protected. A second
// of tolerance: the audit's clock and the record's are read at different moments.
func (a subject) has(d avc.Denial) bool {
	// All that is about guests, from either side.
	if a.all {
		return partOf(d).guestSide() || partOf(d) == partShim || strings.HasPrefix(d.Target.Type, "cloister_")
	}
	if !a.since.IsZero() && !d.Time.IsZero() && d.Time.Before(a.since.Add(-time.Second)) {
		return false
	}
	if slices.Contains(a.pids, d.PID) {
		return true
	}
	if sandbox, _, _ := strings.Cut(d.Profile, "//"); a.profile != "" && sandbox == a.profile {
		return true
	}
	source, _ := d.Source.Range.Single()
	target, _ := d.Target.Range.Single()
	return a.level != nil && (!d.Source.IsZero() && source == *a.level || !d.Target.IsZero() && target == *a.level)
}

// denials reads the log named, or those of the host. Both are read where both are there: auditd may
// have started late, or have been stopped.
func (s *site) denials(log string) ([]avc.Denial, error) {
	switch log {
	case "":
	case "-":
		return avc.Read(os.Stdin)
	default:
		f, err := os.Open(log)
		if err != nil {
			return nil, orRoot(err)
		}
		defer f.Close()
		return avc.Read(f)
	}
	list, errAudit := readFile(s.path(auditLog))
	more, errKernel := readKernelLog(s.path(kernelLog))
	if errAudit != nil && errKernel != nil {
		// One of them is enough.
		return nil, orRoot(fmt.Errorf("no log of denials can be read: %w; %w", errAudit, errKernel))
	}
	seen := map[string]bool{}
	for _, d := range list {
		seen[d.Event] = true
	}
	for _, d := range more {
		if d.Event == "" || !seen[d.Event] { // what auditd has is not taken twice
			list = append(list, d)
		}
	}
	return list, nil
}

// readFile reads a whole log; rotated files are not looked at.
func readFile(name string) ([]avc.Denial, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return avc.Read(f)
}

// maxKernelLog bounds what is read of the kernel's log. The ring is some MiB; a bound is needed
// since new records may come as fast as they are read.
const maxKernelLog = 64 << 20

// readKernelLog reads what is there now: one record at a read, until there is none. A record that
// was overwritten meanwhile is EPIPE, and the next one follows.
func readKernelLog(name string) ([]avc.Denial, error) {
	// NONBLOCK: at the end of the ring a read would wait for the next message.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var text bytes.Buffer
	record := make([]byte, 8<<10) // PRINTK_MESSAGE_MAX is 2048
	// One read gives one record, whole.
	for text.Len() < maxKernelLog {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN) || n == 0 && err == nil:
			return avc.Read(&text)
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		text.Write(record[:n])
	}
	return avc.Read(&text)
}

// all explains denials; those that differ but in time and process are told once. A denial may come
// thousands of times; time and pid are those of the first one, with the last time beside.
func (s scene) all(denials []avc.Denial) []explained {
	list := []explained{}
	place := map[string]int{}
	for _, d := range denials {
		key := fmt.Sprintf("%s %v %v %q %q %s %v %q %s %d", d.By, d.Source, d.Target, d.Profile, d.Program, d.Class, d.Permissions,
			d.Path, d.Device, d.Inode)
		if i, known := place[key]; known {
			// The order of the log is time's, so the last one that was read is the latest.
			list[i].Count++
			list[i].Last = d.Time
			continue
		}
		place[key] = len(list)
		list = append(list, explained{Denial: d, Count: 1, Last: d.Time, Who: partOf(d).String(), answer: s.explain(d)})
	}
	return list
}

// attacks counts kinds, not denials.
func attacks(list []explained) int {
	n := 0
	for _, e := range list {
		if e.Judgement == judgedAttack {
			n++
		}
	}
	return n
}

// printWhy prints each kind with its remedy. Text of a process or file is shown as plain.
func printWhy(out io.Writer, about subject, list []explained) error {
	if len(list) == 0 {
		_, err := fmt.Fprintf(out, "nothing was denied to %s\n", about.name)
		return err
	}
	for _, e := range list {
		when := "at an unknown time"
		if !e.Last.IsZero() {
			when = e.Last.Local().Format(time.DateTime)
		}
		if e.Count > 1 {
			when = fmt.Sprintf("%d times, last %s", e.Count, when)
		}
		fmt.Fprintf(out, "%s (%s, pid %d%s) was denied { %s } on %s\n", e.Who, plain(e.Command), e.PID,
			e.as(), strings.Join(e.Permissions, " "), e.what())
		fmt.Fprintf(out, "  %s%s\n", when, map[bool]string{true: "; let through, since the host or the domain is permissive"}[e.Permissive])
		switch e.Judgement {
		case judgedAttack:
			fmt.Fprintf(out, "  THIS LOOKS LIKE AN ATTACK: %s\n", e.Reason)
		case judgedHarmless:
			fmt.Fprintf(out, "  harmless: %s\n", e.Reason)
		case judgedMistake:
			fmt.Fprintf(out, "  %s\n  -> %s\n", e.Reason, e.Remedy)
		}
	}
	_, err := fmt.Fprintf(out, "%d kinds of denials of %s, %d look like an attack\n", len(list), about.name, attacks(list))
	return err
}

// as is the label or profile that the process had.
func (e explained) as() string {
	switch e.By {
	case avc.SELinux:
		return ", " + e.Source.String()
	case avc.AppArmor:
		return ", profile " + plain(e.Profile)
	case avc.Seccomp:
	}
	return ""
}

// what names the thing that was reached for.
func (e explained) what() string {
	text := e.Class
	if e.Path != "" {
		text += " " + plain(e.Path)
	}
	if e.By != avc.SELinux {
		return text
	}
	if e.Inode != 0 {
		text += fmt.Sprintf(" (%s, inode %d)", plain(e.Device), e.Inode)
	}
	return text + ", which is " + e.Target.String()
}
