// SPDX-License-Identifier: Apache-2.0

package promql

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// picture is a dashboard with what its panels show.
type picture struct {
	title  string
	begin  time.Time // of the first scrape
	length time.Duration
	graphs []graph
}

// graph is a panel with its curves.
type graph struct {
	panel

	curves []curve
}

// curve is one series. Its points are at scrapes; some may be missing.
type curve struct {
	name   string
	points []point
}

type point struct {
	at    time.Duration // since the first scrape
	value float64
	base  float64 // what it stands on, in a stack
}

// Sizes in pixels.
const (
	column   = 50 // of Grafana's 24
	row      = 34 // of Grafana's grid
	gap      = 8  // between panels
	header   = 56
	axis     = 64 // left of a plot, for its values
	headline = 40 // above a plot
	foot     = 30 // below a plot, for the times
	legend   = 176
	line     = 17 // of a legend
)

// colours are those of the curves, in their order. They differ in lightness too.
var colours = []string{
	"#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#4dd2d2", "#c0d8ff", "#c98b5a", "#ff9fb2",
	"#3f9c7a", "#8a7fff",
}

// svg draws the whole picture.
func (p picture) svg() string {
	height := 0
	for _, g := range p.graphs {
		height = max(height, (g.GridPos.Y+g.GridPos.H)*row)
	}
	height += header + gap
	const width = 24*column + gap
	var b strings.Builder
	const when = "2006-01-02 15:04"
	begin, end := p.begin.Format(when), p.begin.Add(p.length).Format("15:04")
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?>
<!-- SPDX-License-Identifier: Apache-2.0 -->
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d"
 font-family="sans-serif" font-size="12" fill="#ccccdc">
<rect width="%[1]d" height="%[2]d" fill="#111217"/>
<text x="16" y="35" font-size="19" font-weight="bold">%[3]s</text>
<text x="%[4]d" y="34" text-anchor="end" fill="#9a9aab">%[5]s to %[6]s UTC, a scrape every %[7]d s</text>
`, width, height, html.EscapeString(p.title), width-16, begin, end, scrapeInterval/time.Second)
	for _, g := range p.graphs {
		p.draw(&b, g)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// frame turns values into places of one plot.
type frame struct {
	left, top, width, height float64
	length                   time.Duration
	most                     float64 // the value at the top
	least                    float64 // the value at the bottom; above zero for a logarithmic scale
}

func (f frame) x(at time.Duration) float64 {
	return f.left + float64(at)/float64(f.length)*f.width
}

func (f frame) y(value float64) float64 {
	if f.least > 0 {
		value = math.Max(value, f.least)
		return f.top + f.height - math.Log(value/f.least)/math.Log(f.most/f.least)*f.height
	}
	return f.top + f.height - value/f.most*f.height
}

// draw draws a panel: title, axes, curves and the legend on the right, as the dashboard asks for.
func (p picture) draw(b *strings.Builder, g graph) {
	left, top := g.GridPos.X*column+gap, g.GridPos.Y*row+header
	width, height := g.GridPos.W*column-gap, g.GridPos.H*row-gap
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="3" fill="#181b1f" stroke="#2c2f36"/>`+"\n", left, top, width, height)
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="14" font-weight="bold">%s</text>`+"\n", left+12, top+23, html.EscapeString(g.Title))
	custom, shown := g.FieldConfig.Defaults.Custom, g.curves
	if custom.Stacking.Mode == "normal" {
		shown = stack(g.curves)
	}
	f := frame{
		left: float64(left + axis), top: float64(top + headline), width: float64(width - axis - legend - 12),
		height: float64(height - headline - foot), length: p.length,
	}
	u, lines := scale(g.FieldConfig.Defaults.Unit, shown, custom.ScaleDistribution.Type == "log")
	f.most = lines[len(lines)-1]
	if custom.ScaleDistribution.Type == "log" {
		f.least = lines[0]
	}
	p.axes(b, f, lines, u)
	// The first curve of a stack is the lowest, and is seen above the others.
	for i := len(shown) - 1; i >= 0; i-- {
		plot(b, f, shown[i].points, colours[i%len(colours)], custom.FillOpacity/100)
	}
	x, y := left+width-legend+8, top+headline+6
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#9a9aab" font-size="11">last</text>`+"\n", left+width-12, y-6)
	for i, c := range g.curves {
		y += line
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="12" height="4" rx="2" fill="%s"/><text x="%d" y="%d">%s</text>`,
			x, y-6, colours[i%len(colours)], x+18, y, html.EscapeString(c.name))
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left+width-12, y, u(c.points[len(c.points)-1].value))
	}
}

// axes draws the lines of a plot with their values and times.
func (p picture) axes(b *strings.Builder, f frame, lines []float64, u unit) {
	for _, value := range lines {
		y := f.y(value)
		fmt.Fprintf(b, `<path d="M%.1f %.1fh%.1f" stroke="#2c2f36"/>`, f.left, y, f.width)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="end" fill="#9a9aab">%s</text>`+"\n", f.left-8, y+4, u(value))
	}
	const every = 5 * time.Minute
	for at := p.begin.Truncate(every).Add(every).Sub(p.begin); at <= p.length; at += every {
		x := f.x(at)
		fmt.Fprintf(b, `<path d="M%.1f %.1fv%.1f" stroke="#24272d"/>`, x, f.top, f.height)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#9a9aab">%s</text>`+"\n",
			x, f.top+f.height+18, p.begin.Add(at).Format("15:04"))
	}
}

// plot draws one curve. It ends where a point is missing; a point without neighbours is a dot.
func plot(b *strings.Builder, f frame, points []point, colour string, fill float64) {
	for len(points) > 0 {
		n := 1
		for n < len(points) && points[n].at-points[n-1].at <= scrapeInterval {
			n++
		}
		run := points[:n]
		points = points[n:]
		if n == 1 {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", f.x(run[0].at), f.y(run[0].value), colour)
			continue
		}
		top := path(f, run, func(pt point) float64 { return pt.value })
		if fill > 0 {
			back := slices.Clone(run)
			slices.Reverse(back)
			bottom := path(f, back, func(pt point) float64 { return pt.base })
			fmt.Fprintf(b, `<path d="%sL%sZ" fill="%s" fill-opacity="%.2f"/>`+"\n", top, bottom[1:], colour, fill)
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.6" stroke-linejoin="round"/>`+"\n", top, colour)
	}
}

// path goes through points. It leaves out those between two of the same height.
func path(f frame, points []point, value func(point) float64) string {
	var d strings.Builder
	for i, pt := range points {
		v := value(pt)
		if i > 0 && i < len(points)-1 && value(points[i-1]) == v && value(points[i+1]) == v {
			continue
		}
		step := "L"
		if i == 0 {
			step = "M"
		}
		fmt.Fprintf(&d, "%s%.1f %.1f", step, f.x(pt.at), f.y(v))
	}
	return d.String()
}

// stack puts each curve on those before it.
func stack(curves []curve) []curve {
	below := map[time.Duration]float64{}
	stacked := make([]curve, len(curves))
	for i, c := range curves {
		stacked[i] = curve{name: c.name, points: slices.Clone(c.points)}
		for k := range stacked[i].points {
			pt := &stacked[i].points[k]
			pt.base = below[pt.at]
			pt.value += pt.base
			below[pt.at] = pt.value
		}
	}
	return stacked
}

// unit writes a value of a panel.
type unit func(float64) string

// scale chooses the values at which a plot has a line, from the bottom to the top.
func scale(name string, curves []curve, logarithmic bool) (unit, []float64) {
	most, least := 0.0, math.Inf(1)
	for _, c := range curves {
		for _, pt := range c.points {
			most, least = math.Max(most, pt.value), math.Min(least, pt.value)
		}
	}
	write, lines := map[string]unit{"bytes": size, "s": seconds}[name], []float64{0}
	if write == nil {
		write = number
	}
	if logarithmic {
		lines = []float64{math.Pow10(int(math.Floor(math.Log10(math.Max(least, 0.001)))))}
		for lines[len(lines)-1] < most {
			lines = append(lines, lines[len(lines)-1]*10)
		}
		return write, lines
	}
	step := 1.0
	switch rough := most / 3.5; {
	case name == "bytes":
		step = math.Exp2(math.Ceil(math.Log2(math.Max(rough, 1))))
	case rough > 0:
		step = nice(rough)
	}
	for lines[len(lines)-1] < math.Max(most, step) {
		lines = append(lines, float64(len(lines))*step)
	}
	return write, lines
}

// nice gives the next number of 1, 2 and 5 times a power of ten.
func nice(rough float64) float64 {
	power := math.Pow10(int(math.Floor(math.Log10(rough))))
	for _, factor := range []float64{1, 2, 5} {
		if factor*power >= rough {
			return factor * power
		}
	}
	return 10 * power
}

// number writes three digits, which is more than an eye can see.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func seconds(v float64) string {
	if v > 0 && v < 1 {
		return number(v*1000) + " ms"
	}
	return number(v) + " s"
}

func size(v float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for v >= 1024 && len(units) > 1 {
		v, units = v/1024, units[1:]
	}
	return number(v) + " " + units[0]
}
