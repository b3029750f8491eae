// SPDX-License-Identifier: Apache-2.0

// Command plot draws the times of a run of the bench, as SVG on its standard output.
//
// Its argument is a file that `make bench` wrote (BENCH_JSON).
package main

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"strings"
)

// run is the part of the bench's result that is drawn.
type run struct {
	Times  map[string]spread `json:"times_ms"`
	Phases map[string]spread `json:"phases_ms"`
	// CPU has the kinds of starts, and of each what a program used in a phase ("kernel: guest").
	CPU map[string]map[string]spread `json:"cpu_ms"`
	// KVM are whole starts of the lab's bench, by their kinds.
	KVM map[string]spread `json:"kvm_times_ms"`
}

type spread struct {
	Median float64 `json:"median"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plot FILE.json")
		os.Exit(2)
	}
	data, err := os.ReadFile(os.Args[1])
	var picture string
	if err == nil {
		picture, err = draw(data)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
	fmt.Print(picture)
}

// Sizes in pixels.
const (
	width  = 760
	row    = 26 // height of a bar with the gap below it
	label  = 190
	margin = 16
)

// picture is what has been drawn so far.
type picture struct {
	text strings.Builder
	y    int
}

// group draws bars below a title, in an order, and leaves out those that are missing. scale is the
// value of a bar as wide as the picture.
func (p *picture) group(title, colour string, scale float64, bars map[string]spread, order, names []string) {
	if longest(bars, order) == 0 {
		return
	}
	p.y += row
	fmt.Fprintf(&p.text, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s</text>\n", margin, p.y, html.EscapeString(title))
	for i, key := range order {
		s := bars[key]
		if s.Median == 0 {
			continue
		}
		p.y += row
		long := s.Median / scale * (width - label - 90)
		fmt.Fprintf(&p.text, "<text x=\"%d\" y=\"%d\">%s</text>\n", margin, p.y, html.EscapeString(names[i]))
		fmt.Fprintf(&p.text, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"16\" fill=\"%s\"/>\n", label, p.y-13, max(long, 1), colour)
		fmt.Fprintf(&p.text, "<text x=\"%.1f\" y=\"%d\">%.0f ms</text>\n", label+long+8, p.y, s.Median)
	}
	p.y += row / 2
}

func longest(bars map[string]spread, order []string) (median float64) {
	for _, key := range order {
		median = max(median, bars[key].Median)
	}
	return median
}

// draw gives the picture of a result: whole starts first, then the phases of one, cold and from a
// template to the same scale. What the result lacks is left out.
func draw(data []byte) (string, error) {
	var r run
	if err := json.Unmarshal(data, &r); err != nil {
		return "", err
	}
	p := picture{y: margin}
	whole := []string{"cold", "bare", "cold runsc", "cold runc"}
	p.group("Cold start, whole", "#2e6fb0", longest(r.Times, whole), r.Times, whole,
		[]string{"cloister", "bare QEMU boot", "gVisor (runsc)", "runc"})
	starts := []string{"start, cold", "start, template", "start, runc"}
	p.group("Start until the container runs", "#2e6fb0", longest(r.Times, starts), r.Times, starts,
		[]string{"cloister, cold", "cloister, template", "runc"})
	phases := []string{
		"plan", "label", "content", "prepare", "memory", "files", "qemu", "load", "verify",
		"kernel", "agent", "rootfs", "create", "start",
	}
	both := []string{"cold", "template"}
	p.group("The same, nested KVM", "#2e6fb0", longest(r.KVM, both), r.KVM, both, []string{"cloister, cold", "cloister, template"})
	scale := 0.0
	for _, kind := range both {
		scale = max(scale, longest(r.Phases, keys(kind+" start: ", phases)))
	}
	for _, kind := range both {
		p.group("Phases of a start, "+kind, "#2e8b57", scale, r.Phases, keys(kind+" start: ", phases), phases)
	}
	phases = append(phases, between)
	scale = 0
	for _, kind := range both {
		scale = max(scale, longest(byPhase(r.CPU[kind]), phases))
	}
	for _, kind := range both {
		p.group("CPU time of the phases, "+kind, "#b0602e", scale, byPhase(r.CPU[kind]), phases, phases)
	}
	if p.text.Len() == 0 {
		return "", fmt.Errorf("no times in the file: want what make bench writes into BENCH_JSON")
	}
	const head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- SPDX-License-Identifier: Apache-2.0 -->\n" +
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%[1]d\" height=\"%[2]d\" viewBox=\"0 0 %[1]d %[2]d\" " +
		"font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n" +
		"<rect width=\"%[1]d\" height=\"%[2]d\" fill=\"#fff\"/>\n"
	return fmt.Sprintf(head, width, p.y+margin) + p.text.String() + "</svg>\n", nil
}

// between is what is used outside of a start's phases, mainly by client and engine.
const between = "between"

// byPhase sums up what all programs used in each phase.
func byPhase(cells map[string]spread) map[string]spread {
	sums := map[string]spread{}
	for name, s := range cells {
		phase, _, _ := strings.Cut(name, ": ")
		sums[phase] = spread{sums[phase].Median + s.Median}
	}
	return sums
}

// keys are the names of phases as the bench writes them.
func keys(prefix string, phases []string) []string {
	list := make([]string, len(phases))
	for i, name := range phases {
		list[i] = prefix + name
	}
	return list
}
