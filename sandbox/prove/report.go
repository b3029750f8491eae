// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Layer is something that may stop an attack. Its value is what docs/threats.md and the JSON of a
// Report call it.
type Layer string

// The layers, in the order in which they are shown.
const (
	MAC        Layer = "mac"        // SELinux or AppArmor
	User       Layer = "user"       // ids, capabilities, no_new_privs
	Seccomp    Layer = "seccomp"    // an allow list of system calls
	Landlock   Layer = "landlock"   // files, sockets, signals
	Root       Layer = "root"       // an empty root directory
	Namespaces Layer = "namespaces" // ipc, uts and network
	Cgroup     Layer = "cgroup"     // devices, processes
)

// All are all layers.
func All() []Layer { return []Layer{MAC, User, Seccomp, Landlock, Root, Namespaces, Cgroup} }

// Outcome is what has come of one attack. The JSON of a Report is read by scripts: fields are
// added, not renamed.
type Outcome struct {
	By     string `json:"by"`     // qemu, virtiofsd or container
	Attack string `json:"attack"` // what was tried
	On     string `json:"on"`     // what it was tried on
	Denied bool   `json:"denied"` // with all layers
	Seen   string `json:"seen"`   // what the attacker has seen, with all layers
	// Control is whether root succeeds without a layer. Else the host lacks what is attacked, and
	// the attack shows nothing; Without says why.
	Control bool   `json:"control"`
	Without string `json:"without,omitempty"`
	// Layers are those that stop the attack alone; none: several together do.
	Layers []Layer `json:"layers"`
}

// Report is what Run has found. A Report is complete: Run gives none if it could not make all
// attacks.
type Report struct {
	Class    string    `json:"class"`  // vm or process
	MAC      string    `json:"mac"`    // selinux, apparmor or none
	Layers   []Layer   `json:"layers"` // that are on
	Outcomes []Outcome `json:"attacks"`
	// Absent are attacks on what this host does not have, such as a system call. They are not
	// counted.
	Absent []Outcome `json:"absent,omitempty"`
	// NotAttacked is what the class does not promise, for people.
	NotAttacked []string `json:"notAttacked,omitempty"`
	Verdict     string   `json:"verdict"` // the closing line
}

// Succeeded are the attacks that no layer has stopped. `cloister prove` ends with status 3 if there
// are any.
func (r Report) Succeeded() []Outcome {
	return r.chosen(func(o Outcome) bool { return !o.Denied })
}

// Void are the attacks that root cannot make either on this host. A denial of one of them says
// nothing about the sandbox.
func (r Report) Void() []Outcome {
	return r.chosen(func(o Outcome) bool { return !o.Control })
}

// Single are the attacks that one layer alone stops: targets that one fault opens. Attacks that
// only several layers stop together are among them: they fail when one of those layers does.
func (r Report) Single() []Outcome {
	return r.chosen(func(o Outcome) bool { return o.Denied && o.Control && len(o.Layers) < 2 })
}

func (r Report) chosen(want func(Outcome) bool) []Outcome {
	var list []Outcome
	for _, o := range r.Outcomes {
		if want(o) {
			list = append(list, o)
		}
	}
	return list
}

// settle puts aside what this host does not have, and makes the closing line. Only root's own
// failure tells that something is absent: an attacker in its jail gets ENOENT for what is hidden
// from it, which is a denial.
func (r Report) settle() Report {
	missing := func(o Outcome) bool { // ENOENT, ENOSYS
		said := func(text string) bool { return strings.Contains(o.Without, text) }
		return !o.Control && (said("no such file or directory") || said("function not implemented"))
	}
	r.Absent = r.chosen(missing)
	r.Outcomes = slices.DeleteFunc(r.Outcomes, missing)
	r.Verdict = r.Closing()
	return r
}

// Closing is the last line: how many attacks were tried, denied and shown to be possible, and how
// many layers stop one, at least and in the middle. Tests look for it by its form.
func (r Report) Closing() string {
	denied, controls := 0, 0
	var counts []int
	for _, o := range r.Outcomes {
		if o.Denied {
			denied++
		}
		if o.Control {
			controls++
			counts = append(counts, max(1, len(o.Layers))) // several together are one
		}
	}
	least, middle := 0, 0
	if len(counts) > 0 {
		slices.Sort(counts)
		least, middle = counts[0], counts[len(counts)/2]
	}
	all, on := len(r.Outcomes), r.MAC
	if r.Class == "process" {
		on = r.Class + "/" + on
	}
	return fmt.Sprintf("attacks[%s]: %d tried, %d denied, %d succeeded; controls: %d of %d; layers: min %d median %d",
		on, all, denied, all-denied, controls, all, least, middle)
}

// Write prints the report as a table: a column for each layer that is on.
func (r Report) Write(out io.Writer) error {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	names := make([]string, len(r.Layers))
	for i, l := range r.Layers {
		names[i] = strings.ToUpper(string(l))
	}
	fmt.Fprintln(w, strings.Join(append([]string{"BY", "ATTACK", "ON", "RESULT"}, names...), "\t"))
	for _, o := range r.Outcomes {
		row := []string{o.By, o.Attack, cmp.Or(o.On, "-"), o.result()}
		for _, l := range r.Layers {
			mark := ""
			if slices.Contains(o.Layers, l) {
				mark = "stops"
			}
			row = append(row, mark)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	for _, o := range r.Succeeded() {
		fmt.Fprintf(out, "SUCCEEDED: %s by %s on %s\n", o.Attack, o.By, cmp.Or(o.On, "-"))
	}
	for _, o := range r.Single() {
		fmt.Fprintf(out, "one layer alone: %s by %s on %s: %v\n", o.Attack, o.By, cmp.Or(o.On, "-"), o.Layers)
	}
	for _, o := range r.Void() {
		fmt.Fprintf(out, "shows nothing here: %s by %s on %s: root without a layer: %s\n", o.Attack, o.By, cmp.Or(o.On, "-"), o.Without)
	}
	for _, o := range r.Absent {
		fmt.Fprintf(out, "not on this host: %s by %s on %s\n", o.Attack, o.By, cmp.Or(o.On, "-"))
	}
	for _, what := range r.NotAttacked {
		fmt.Fprintf(out, "not attacked: %s\n", what)
	}
	fmt.Fprintf(out, "class: %s\n", r.Class)
	_, err := fmt.Fprintln(out, r.Verdict)
	return err
}

func (o Outcome) result() string {
	switch {
	case !o.Denied:
		return "SUCCEEDED"
	case !o.Control:
		return "denied, to root too"
	}
	return "denied"
}
