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

// draw gives the picture of a result: whole starts first, then the phases of one. What the result
// lacks is left out.
func draw(data []byte) (string, error) {
	var r run
	if err := json.Unmarshal(data, &r); err != nil {
		return "", err
	}
	var b strings.Builder
	y := margin
	group := func(title, colour string, bars map[string]spread, order, names []string) {
		longest := 0.0
		for _, key := range order {
			longest = max(longest, bars[key].Median)
		}
		if longest == 0 {
			return
		}
		y += row
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s</text>\n", margin, y, html.EscapeString(title))
		for i, key := range order {
			s, ok := bars[key]
			if !ok {
				continue
			}
			y += row
			long := s.Median / longest * (width - label - 90)
			fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\">%s</text>\n", margin, y, html.EscapeString(names[i]))
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"16\" fill=\"%s\"/>\n", label, y-13, max(long, 1), colour)
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%.0f ms</text>\n", label+long+8, y, s.Median)
		}
		y += row / 2
	}
	group("Cold start, whole", "#2e6fb0", r.Times,
		[]string{"cold", "bare", "cold runsc", "cold runc"}, []string{"cloister", "bare QEMU boot", "gVisor (runsc)", "runc"})
	phases := []string{"plan", "label", "content", "prepare", "files", "qemu", "verify", "kernel", "agent", "rootfs", "create", "start"}
	group("Phases of a start of cloister", "#2e8b57", r.Phases, keys("start: ", phases), phases)
	kinds := []string{"start, cold", "start, template", "start, runc"}
	group("Start until the container runs", "#2e6fb0", r.Times, kinds, []string{"cloister, cold", "cloister, template", "runc"})
	restore := []string{
		"plan", "label", "content", "prepare", "memory", "files", "qemu", "load", "verify",
		"kernel", "agent", "rootfs", "create", "start",
	}
	group("Phases of a start from a template", "#2e8b57", r.Phases, keys("template start: ", restore), restore)
	if b.Len() == 0 {
		return "", fmt.Errorf("no times in the file: want what make bench writes into BENCH_JSON")
	}
	const head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- SPDX-License-Identifier: Apache-2.0 -->\n" +
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%[1]d\" height=\"%[2]d\" viewBox=\"0 0 %[1]d %[2]d\" " +
		"font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n" +
		"<rect width=\"%[1]d\" height=\"%[2]d\" fill=\"#fff\"/>\n"
	return fmt.Sprintf(head, width, y+margin) + b.String() + "</svg>\n", nil
}

// keys are the names of phases as the bench writes them.
func keys(prefix string, phases []string) []string {
	list := make([]string, len(phases))
	for i, name := range phases {
		list[i] = prefix + name
	}
	return list
}
