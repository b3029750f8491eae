// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"strings"

	"cloister/labels"
	"cloister/oci"
)

// LabelRule says how a folder of the host, and what is below it, is labelled when it is a volume.
// It comes from [[labels.mounts]].
type LabelRule struct {
	Folder  string // without links
	Sharing labels.Sharing
	Label   string // goes with the sharing "label"
}

// Treatment says how a file is labelled before a guest gets it. What it means for a file is package
// confine's to decide.
type Treatment struct {
	// Sharing is who else may use it. Empty is the root file system's: private, unless its label
	// fits already.
	Sharing labels.Sharing
	Label   labels.Label // goes with the sharing "label"
}

// Treatment says how a volume is labelled.
func (r Rules) Treatment(m oci.Mount, s Source) (Treatment, error) { return treatment(r.Labels, m, s) }

// treatment of a volume: by annotation, else by the configuration's nearest folder, else its label
// stays and must fit. Nothing is relabelled that nobody has named: a user's folder may be in use by
// others.
func treatment(rules []LabelRule, m oci.Mount, s Source) (Treatment, error) {
	t, text := Treatment{Sharing: labels.Sharing(m.Sharing)}, m.Label
	if t.Sharing == "" {
		t.Sharing = labels.Keep
		nearest := -1
		// The nearest folder counts, whatever the order of the rules.
		for _, rule := range rules {
			folder := strings.TrimSuffix(rule.Folder, "/")
			if len(folder) > nearest && below(s.Real, []string{folder}) {
				nearest, t.Sharing, text = len(folder), cmp.Or(rule.Sharing, labels.Keep), rule.Label
			}
		}
	}
	var err error
	if text != "" {
		t.Label, err = labels.Parse(text)
	}
	return t, err
}
