// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"fmt"
	"slices"
)

// Resource is a kind of thing that a guest is given.
type Resource string

// The resources that are labelled on their own.
const (
	Disk   Resource = "disk"   // an image file or block device, QEMU's
	Folder Resource = "folder" // a directory or file that virtiofsd serves
)

// Sharing is who else may use a resource.
type Sharing string

// The ways of sharing; empty means Private.
const (
	Private  Sharing = "private"  // this sandbox alone (:Z)
	Shared   Sharing = "shared"   // every guest may write (:z)
	ReadOnly Sharing = "readonly" // every guest may read
	Keep     Sharing = "keep"     // the label stays as it is and must fit
	Given    Sharing = "label"    // a label of its own is given
)

// Treatment is what is done to a resource. A resource that must carry a label, may not be
// relabelled and carries another is an error of the start.
type Treatment struct {
	// Label is what it must carry; zero when it stays as it is.
	Label Label
	// Relabel is whether it may be labelled so; else it must carry it already.
	Relabel bool
	// Remember is whether it gets its old label back on stop. Shared things never do: others may be
	// using them.
	Remember bool
}

// Treat says what is done to a resource of the sandbox. label is for the sharing "label" alone, and
// must be one that the sandbox may read. In mode None nothing is done to anything.
func (c Chosen) Treat(r Resource, s Sharing, label Label) (Treatment, error) {
	if (s == Given) != !label.IsZero() {
		return Treatment{}, fmt.Errorf("%w: %s with sharing %q and label %q: a label goes with sharing \"label\", and only with it",
			ErrWish, r, s, label)
	}
	if c.QEMU.IsZero() {
		if s == Given {
			return Treatment{}, fmt.Errorf("%w: %s with label %v in mode none", ErrWish, r, label)
		}
		return Treatment{}, nil
	}
	private, shared := c.Image, c.SharedImage
	if r == Folder {
		private, shared = c.Rootfs, c.SharedFolder
	}
	t := Treatment{Relabel: c.Relabel}
	switch s {
	case "", Private:
		t.Label, t.Remember = private, c.Relabel
	case Shared:
		t.Label = shared
	case ReadOnly:
		t.Label = c.Content
	case Keep:
		t = Treatment{}
	case Given:
		if level := label.Range.High; !c.Level.Dominates(level) {
			return Treatment{}, fmt.Errorf("%w: %s with label %v: the sandbox is at %v and could not read it", ErrWish, r, label, c.Level)
		}
		t.Label, t.Remember = label, c.Relabel
	default:
		return Treatment{}, fmt.Errorf("%w: %s with sharing %q: want private, shared, readonly, keep or label", ErrWish, r, s)
	}
	return t, nil
}

// Settled tells whether a resource can be used as it is labelled, so that it need not be
// relabelled, which a file system without labels or a read-only one would refuse: it carries the
// wanted label, or is content to be read.
func (c Chosen) Settled(r Resource, s Sharing, want, have Label) bool {
	return have == want || s == ReadOnly && c.Fits(r, have) == nil
}

// Fits tells whether a resource that keeps its label can be used by the sandbox: it has the type
// wanted, or is content, or, for a folder, has the type that engines give to containers' files, at
// a level that the sandbox's dominates. QEMU has no right on engines' types, so a disk must have
// its own. The error has the command that would make it fit.
func (c Chosen) Fits(r Resource, have Label) error {
	want, engines := c.Image, []string{}
	if r == Folder {
		want = c.Rootfs
		engines = []string{c.EngineFile, c.EngineContent, c.PlainFile, c.SharedFolder.Type}
	}
	if have.Type != want.Type && have.Type != c.Content.Type && (have.Type == "" || !slices.Contains(engines, have.Type)) {
		return fmt.Errorf("%w: %s has type %s: want %s: chcon -t %s, or let it be relabelled", ErrWish, r, have.Type, want.Type, want.Type)
	}
	if level := have.Range.High; !c.Level.Dominates(level) {
		return fmt.Errorf("%w: %s is at %v: the sandbox is at %v: chcon -l %v, or let it be relabelled",
			ErrWish, r, level, c.Level, c.Level)
	}
	return nil
}
