// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Cloister's own annotations. Each is refused unless Options switches it on.
const (
	AnnotationPrefix = "io.cloister."

	// AnnotationClass is vm for a sandbox that is to be a machine although class is process. No
	// annotation makes a machine into a plain container.
	AnnotationClass = "io.cloister.class"

	// AnnotationMemoryMiB is the workload's memory in MiB, in place of its limit and of
	// sizing.default_memory_mib; at most sizing.max_memory_mib.
	AnnotationMemoryMiB = "io.cloister.memory-mib"
	// AnnotationCPUs is the number of CPUs, in place of what the quota needs; at most
	// sizing.max_cpus.
	AnnotationCPUs = "io.cloister.cpus"
	// AnnotationMachine is q35 or microvm, in place of machine.type.
	AnnotationMachine = "io.cloister.machine"
	// AnnotationStart is cold for a sandbox that does not start from a template.
	AnnotationStart = "io.cloister.start"

	// AnnotationLabelMode is dynamic or static, in place of labels.mode.
	AnnotationLabelMode = "io.cloister.labels.mode"
	// AnnotationLabel is a whole label, in place of labels.label.
	AnnotationLabel = "io.cloister.labels.label"
	// AnnotationImage is a whole label, in place of labels.image.
	AnnotationImage = "io.cloister.labels.image"
	// AnnotationBase is a label whose type QEMU gets, in place of labels.base.
	AnnotationBase = "io.cloister.labels.base"
	// AnnotationRelabel is yes or no, in place of labels.relabel.
	AnnotationRelabel = "io.cloister.labels.relabel"
	// AnnotationShare is the name of a group of sandboxes that hold one level, in place of
	// labels.share.
	AnnotationShare = "io.cloister.labels.share"
	// AnnotationMounts is DESTINATION=SHARING for volumes, with semicolons between: private,
	// shared, readonly, keep, or label with a blank and the label. Whoever may set it may have the
	// host's folders relabelled: switch it on for trusted users alone.
	AnnotationMounts = "io.cloister.labels.mounts"
)

// Settings are the io.cloister.* annotations that are switched on. Zero values mean that the
// configuration of the host decides.
type Settings struct {
	MemoryMiB int    // io.cloister.memory-mib; 0: not set
	CPUs      int    // io.cloister.cpus; 0: not set
	Machine   string // io.cloister.machine: q35, microvm or empty
	ColdStart bool   // io.cloister.start: cold
	Labels    LabelSettings
}

// LabelSettings are the io.cloister.labels.* annotations; empty: not set. What
// they mean together is the sandbox's to check.
type LabelSettings struct {
	Mode               string // dynamic or static
	Label, Image, Base string // whole labels, unparsed
	Relabel            string // yes or no
	Share              string // name of a group of sandboxes
}

// settings reads cloister's own annotations. It is called once the mounts are known. An annotation
// that is misspelled or switched off is refused: to ignore it would leave the user with another
// sandbox than the one that was asked for.
func (w *Workload) settings(opts Options, p *problems) {
	w.Labels.Disable = disables(w.Annotations)
	readers := w.readers(p)
	for _, name := range slices.Sorted(maps.Keys(w.Annotations)) {
		if !strings.HasPrefix(name, AnnotationPrefix) {
			continue
		}
		value, field := w.Annotations[name], "annotations."+name
		read, known := readers[name]
		switch {
		case !known:
			p.refuse(field, value, "is not an annotation of cloister: remove it")
		case !slices.Contains(opts.Annotations, name):
			p.refuse(field, value, "is switched off: list it under workloads.annotations in cloister's configuration")
		default:
			read(field, value)
		}
	}
}

// annotationPodmanLabel is where Podman writes the values of --security-opt label=, with
// ",label=" between them.
const annotationPodmanLabel = "io.podman.annotations.label"

// disables says that an engine was asked for label=disable. Docker and CRI have no such word for
// it: they give no label then.
func disables(annotations map[string]string) bool {
	return slices.Contains(strings.Split(annotations[annotationPodmanLabel], ",label="), "disable")
}

// readers are what each annotation is read by. A name that is not here is no annotation of
// cloister's.
func (w *Workload) readers(p *problems) map[string]func(field, value string) {
	s := &w.Settings
	text := func(into *string) func(string, string) {
		return func(field, value string) {
			if *into = value; value == "" {
				p.refuse(field, nil, "is empty: remove it")
			}
		}
	}
	oneOf := func(into *string, first, second string) func(string, string) {
		return func(field, value string) {
			if *into = value; value != first && value != second {
				p.refuse(field, value, "is neither "+first+" nor "+second)
			}
		}
	}
	return map[string]func(string, string){
		AnnotationClass: func(field, value string) {
			if value != string(w.Class) {
				p.refuse(field, value, "differs from the sandbox's class, which is "+string(w.Class)+": remove it")
			}
		},
		AnnotationMemoryMiB: func(field, value string) { s.MemoryMiB = p.positive(field, value) },
		AnnotationCPUs:      func(field, value string) { s.CPUs = p.positive(field, value) },
		AnnotationMachine:   oneOf(&s.Machine, "q35", "microvm"),
		AnnotationStart: func(field, value string) {
			if s.ColdStart = value == "cold"; !s.ColdStart {
				p.refuse(field, value, "is not known: the only value is cold")
			}
		},
		AnnotationLabelMode: oneOf(&s.Labels.Mode, "dynamic", "static"),
		AnnotationLabel:     text(&s.Labels.Label),
		AnnotationImage:     text(&s.Labels.Image),
		AnnotationBase:      text(&s.Labels.Base),
		AnnotationRelabel:   oneOf(&s.Labels.Relabel, "yes", "no"),
		AnnotationShare:     text(&s.Labels.Share),
		AnnotationMounts:    func(field, value string) { w.mountLabels(p, field, value) },
	}
}

// mountLabels reads DESTINATION=SHARING for each of several mounts, with semicolons between them;
// the sharing "label" is followed by a blank and the label. The destination names the mount, since
// a pod's author does not know the source on the host.
func (w *Workload) mountLabels(p *problems, field, value string) {
	for part := range strings.SplitSeq(value, ";") {
		destination, rest, _ := strings.Cut(strings.TrimSpace(part), "=")
		sharing, label, _ := strings.Cut(rest, " ")
		if !slices.Contains([]string{"private", "shared", "readonly", "keep", "label"}, sharing) || (sharing == "label") != (label != "") {
			p.refuse(field, part, "is not DESTINATION=SHARING: want private, shared, readonly, keep, or label with a blank and the label")
			continue
		}
		i := slices.IndexFunc(w.Mounts, func(m Mount) bool {
			return m.Kind == BindMount && m.Purpose == Volume && m.Destination == path.Clean(destination)
		})
		switch {
		case i < 0 && w.Role != Single: // a pod's annotations come with all of its containers
			p.ignore(field, destination, "is the destination of no volume of this container")
			continue
		case i < 0:
			p.refuse(field, destination, "is the destination of no volume")
			continue
		}
		w.Mounts[i].Sharing, w.Mounts[i].Label = sharing, label
	}
}

// positive reads a number above zero; 2^30 bounds it, so that MiB fit into 64 bits as bytes.
func (p *problems) positive(field, value string) int {
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 || n > 1<<30 {
		p.refuse(field, value, "is not a whole number above zero")
		return 0
	}
	return n
}
