// SPDX-License-Identifier: Apache-2.0

// Package avc reads denials from an audit log or the kernel's log: those of SELinux's access vector
// cache, of AppArmor's profiles and of lists of system calls.
//
// It says what a record says and must not judge it. A sandbox can influence what is in a record
// (the names of its files and processes): every field is bounded, and text is only ever text. Its
// type is Denial. All functions are safe for concurrent use.
package avc

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister/labels"
)

// Bounds of what is read. A guest can cause denials without end, and lines of any length by the
// names of its files.
const (
	maxLine    = 64 << 10
	maxDenials = 100_000
	maxField   = 4096 // PATH_MAX
	maxEvents  = 1024 // events whose records may stand apart from each other
)

// Layer is what refused an access.
type Layer string

// The layers that write records.
const (
	SELinux  Layer = "selinux"
	AppArmor Layer = "apparmor"
	Seccomp  Layer = "seccomp"
)

// Denial is one access that a layer refused, or would have refused.
type Denial struct {
	By Layer `json:"by"`
	// Event is the audit's "seconds.milliseconds:serial", which joins the records of one system
	// call.
	Event       string    `json:"event"`
	Time        time.Time `json:"time,omitzero"`
	Permissions []string  `json:"permissions"`
	// Class is what was reached for. With AppArmor it is the operation, as "open" or "capable".
	// With Seccomp it is "system call", whose name is the only permission.
	Class   string `json:"class"`
	PID     int    `json:"pid,omitempty"`
	Command string `json:"command,omitempty"`
	Path    string `json:"path,omitempty"` // the whole one where the log has it, else the last part
	Device  string `json:"device,omitempty"`
	Inode   uint64 `json:"inode,omitempty"`
	// Source and Target are labels of SELinux. Target is zero with the other layers.
	Source labels.Label `json:"source,omitzero"`
	Target labels.Label `json:"target,omitzero"`
	// Profile is that of the process where AppArmor confines it.
	Profile string `json:"profile,omitempty"`
	// Program is the file that the process runs, with Seccomp. The kernel names it, not the
	// process.
	Program string `json:"program,omitempty"`
	// Permissive: it was let through.
	Permissive bool `json:"permissive,omitempty"`
}

// deniedMark begins a denial. Granted accesses are logged with another word and are left out.
const deniedMark = "avc:  denied  { "

// Parse reads one line of /var/log/audit/audit.log, /dev/kmsg or dmesg. A line that holds no denial
// gives false, and so does one that is cut short or in which a field is not what the kernel writes:
// half a record would be judged wrongly.
func Parse(line string) (Denial, bool) {
	if len(line) > maxLine {
		return Denial{}, false
	}
	head, rest, found := strings.Cut(line, deniedMark)
	if !found {
		return parseOther(line)
	}
	permissions, rest, found := strings.Cut(rest, " }")
	if !found {
		return Denial{}, false
	}
	d := Denial{By: SELinux, Permissions: strings.Fields(permissions)}
	d.Event, d.Time = event(head)
	for key, value := range fields(rest) {
		if !d.set(key, value) {
			return Denial{}, false
		}
	}
	return d, len(d.Permissions) > 0 && d.Class != "" && !d.Source.IsZero() && !d.Target.IsZero()
}

// set takes one field; false when it cannot be what the kernel writes. Unknown keys are skipped, as
// newer kernels have more.
func (d *Denial) set(key, value string) bool {
	var err error
	switch key {
	case "pid":
		d.PID, err = strconv.Atoi(value)
	case "comm":
		d.Command = text(value)
	case "path":
		d.Path = text(value)
	// The last part of a path; path is the whole one, which the kernel writes for files that are
	// open.
	case "name":
		d.Path = cmp.Or(d.Path, text(value))
	case "dev":
		d.Device = text(value)
	case "ino":
		d.Inode, err = strconv.ParseUint(value, 10, 64)
	case "scontext":
		d.Source, err = labels.Parse(value)
	case "tcontext":
		d.Target, err = labels.Parse(value)
	case "tclass":
		d.Class = value
	case "permissive":
		d.Permissive = value == "1"
	}
	return err == nil
}

// fields gives key and value of each key=value; a quoted value may hold blanks. Words without an
// equals sign are skipped, and values of more than maxField bytes are left out.
func fields(rest string) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for rest != "" {
			rest = strings.TrimLeft(rest, " \t\n")
			end := strings.IndexAny(rest, " \t\n=")
			if end < 0 {
				return
			}
			if rest[end] != '=' {
				rest = rest[end:]
				continue
			}
			key := rest[:end]
			var value string
			value, rest = cutValue(rest[end+1:])
			if len(value) <= maxField && !yield(key, value) {
				return
			}
		}
	}
}

// cutValue takes a value with its quotes from the start of s. A quote that is not closed counts as
// part of a word.
func cutValue(s string) (value, rest string) {
	if strings.HasPrefix(s, `"`) {
		if end := strings.IndexByte(s[1:], '"'); end >= 0 {
			return s[:end+2], s[end+2:]
		}
	}
	if end := strings.IndexAny(s, " \t\n"); end >= 0 {
		return s[:end], s[end:]
	}
	return s, ""
}

// text gives what a field of a name says: quoted as it is, or in hexadecimal when
// it holds what would not go into quotes. The kernel quotes a name of hexadecimal digits, so the
// two cannot be confused.
func text(value string) string {
	if quoted, is := strings.CutPrefix(value, `"`); is {
		return strings.TrimSuffix(quoted, `"`)
	}
	if raw, err := hex.DecodeString(value); err == nil && len(raw) > 0 {
		return string(raw)
	}
	return value
}

// event reads audit(1700000000.123:456). A time that cannot be read is the zero time; the denial
// counts all the same.
func event(head string) (string, time.Time) {
	_, rest, found := strings.Cut(head, "audit(")
	id, _, closed := strings.Cut(rest, ")")
	if !found || !closed || len(id) > 64 {
		return "", time.Time{}
	}
	stamp, _, _ := strings.Cut(id, ":")
	seconds, fraction, _ := strings.Cut(stamp, ".")
	s, err := strconv.ParseInt(seconds, 10, 40)
	if err != nil {
		return id, time.Time{}
	}
	ms, err := strconv.ParseInt(fraction, 10, 16)
	if err != nil {
		ms = 0
	}
	return id, time.Unix(s, ms*int64(time.Millisecond)).UTC()
}

// pathRecord reads the whole path of a PATH record, which stands beside the denial
// of the same event. Relative names are left out: the folder that they are in is in another record.
func pathRecord(line string) (id, path string, ok bool) {
	if !strings.HasPrefix(line, "type=PATH ") {
		return "", "", false
	}
	id, _ = event(line)
	_, rest, _ := strings.Cut(line, "): ")
	for key, value := range fields(rest) {
		if key == "name" && value != "(null)" {
			path = text(value)
		}
	}
	return id, path, id != "" && strings.HasPrefix(path, "/")
}

// Read gives the denials of a log in their order. Lines that are too long are left
// out; of more than 100,000 denials the last are kept. An error comes with the denials before it.
func Read(log io.Reader) ([]Denial, error) {
	var list []Denial
	paths := map[string]string{}
	// ReadSlice never grows its buffer, so a line without an end takes no memory.
	lines := bufio.NewReaderSize(log, maxLine)
	rest := false // what comes is the rest of a line that is too long
	for {
		line, err := lines.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if !full && !rest {
			list = take(list, paths, string(line))
		}
		rest = full
		switch {
		case err == nil || full:
		case errors.Is(err, io.EOF):
			return join(list, paths), nil
		default:
			return join(list, paths), fmt.Errorf("read the log: %w", err)
		}
	}
}

// take adds what a line says to the list, or to the paths that wait for their denial. An event's
// records come close together, so a bounded number of paths is enough.
func take(list []Denial, paths map[string]string, line string) []Denial {
	if id, path, ok := pathRecord(line); ok {
		if len(paths) >= maxEvents {
			list = join(list, paths)
			clear(paths)
		}
		// The first PATH record of an event counts.
		if paths[id] == "" {
			paths[id] = path
		}
		return list
	}
	if d, ok := Parse(line); ok {
		// Cut only when it is twice as long, so that a long log is not copied for each line.
		if list = append(list, d); len(list) > 2*maxDenials {
			list = slices.Delete(list, 0, len(list)-maxDenials)
		}
	}
	return list
}

// join gives denials that know but the last part of a path the whole one. The whole path must end
// in the part that the denial has: the event's record may be about another file, such as the
// folder.
func join(list []Denial, paths map[string]string) []Denial {
	for i := range list {
		d := &list[i]
		whole := paths[d.Event]
		if whole != "" && !strings.HasPrefix(d.Path, "/") && (d.Path == "" || strings.HasSuffix(whole, "/"+d.Path)) {
			d.Path = whole
		}
	}
	if len(list) > maxDenials {
		list = list[len(list)-maxDenials:]
	}
	return list
}
