// SPDX-License-Identifier: Apache-2.0

package labels

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// This file is where the labels of a sandbox are chosen, in three steps:
//
// 	wish.Validate(...)            what config, annotations and engine say must make sense
// 	wish.Level()                  the level to ask the registry for; nil lets it draw
// 	Choose(wish, own, types, lv)  the labels of everything, at the level that was reserved

// ErrWish is wrapped when what is asked for makes no sense or cannot be honoured. The start is
// refused: a sandbox never gets less than was asked for.
var ErrWish = errors.New("label settings")

// Mode is where a sandbox's label comes from.
type Mode string

// The modes there are; empty means Dynamic.
const (
	Dynamic Mode = "dynamic" // a level of its own is drawn, or the engine's is kept
	Static  Mode = "static"  // the whole label is given
	None    Mode = "none"    // no label; refused where SELinux enforces
)

// Wish is what is asked for. The zero value is dynamic with relabelling.
type Wish struct {
	Mode Mode
	// Relabel is whether files are labelled; nil means yes when dynamic, and no otherwise.
	Relabel *bool
	// Label is QEMU's whole label, for Static alone. Image, which may be zero, is the disks' then.
	Label, Image Label
	// Base gives QEMU's type and nothing else, for Dynamic alone.
	Base Label
	// Share names a group of sandboxes that hold one level on purpose.
	Share string
	// Engine and EngineMount are the process and mount labels of the spec; zero when it has none or
	// they do not count. Whoever writes a pod may choose their level, so it is a pair or it is
	// refused.
	Engine, EngineMount Label
	// Disabled is whether the engine was told to give no label (label=disable).
	Disabled bool
}

// Validate holds a wish against libvirt's rules, whose reasons are the same here: a contradiction
// in the settings is refused and not decided by precedence. enforcing is whether the host enforces.
// Under a host that does, no guest goes without a label. The error says what to change.
func (w Wish) Validate(enforcing bool) error {
	if w.Disabled && enforcing {
		return fmt.Errorf("%w: label=disable: SELinux is enforcing, so nothing runs without a label: leave it out, label the "+
			"volumes (:z, :Z or [[labels.mounts]]), or set labels.engine_disable = \"confine\", which labels it anyway", ErrWish)
	}
	relabel := w.Relabel != nil && *w.Relabel
	refuse := func(text string) error { return fmt.Errorf("%w: %s", ErrWish, text) }
	switch w.Mode {
	case "", Dynamic:
		switch {
		case w.Relabel != nil && !relabel:
			return refuse("mode dynamic with relabel = no: files would not be at the drawn level: use mode static, or leave relabel out")
		case !w.Label.IsZero() || !w.Image.IsZero():
			return refuse("mode dynamic with a label: give a base label for the type, or use mode static")
		}
	case Static:
		switch {
		case w.Label.IsZero():
			return refuse("mode static without a label: give user:role:type:level")
		case !w.Base.IsZero():
			return refuse("mode static with a base label: the label itself has the type")
		}
		return w.checkStatic()
	case None:
		switch {
		case enforcing:
			return refuse("mode none on a host that enforces: leave mode out, or use static")
		case relabel:
			return refuse("mode none with relabel = yes: there is no label to give")
		case !w.Label.IsZero() || !w.Image.IsZero() || !w.Base.IsZero() || w.Share != "":
			return refuse("mode none with a label, base label or share: leave them out")
		}
		return nil
	default:
		return refuse(fmt.Sprintf("mode %q: want dynamic, static or none", w.Mode))
	}
	return w.checkEngine()
}

// checkStatic holds a given label against what makes a guest's: one level, which keeps it apart,
// and disks at the same one.
func (w Wish) checkStatic() error {
	level, single := w.Label.Range.Single()
	if !single {
		return fmt.Errorf("%w: static label %v has a range: a sandbox has one level", ErrWish, w.Label)
	}
	if err := level.Separates(w.Share != ""); err != nil {
		return fmt.Errorf("%w: static label %v: %w", ErrWish, w.Label, err)
	}
	if image, single := w.Image.Range.Single(); !w.Image.IsZero() && (!single || image != level) {
		return fmt.Errorf("%w: image label %v is not at the level of %v", ErrWish, w.Image, w.Label)
	}
	return nil
}

// EngineType is the type that somebody chose for this container by the engine: label=type:TYPE, or
// seLinuxOptions.type. It is empty for the types that engines give unasked, in whose place the
// sandbox has those of the policy.
func (w Wish) EngineType() string {
	unasked := []string{
		"", "container_t", "container_init_t", "container_kvm_t", "container_logreader_t", "spc_t", "svirt_lxc_net_t", "svirt_t",
		"container_engine_t", "container_userns_t", "unconfined_t",
	}
	if t := w.Engine.Type; !slices.Contains(unasked, t) && !strings.HasPrefix(t, own+"_") {
		return t
	}
	return ""
}

// checkEngine holds what the engine sends against what a pod's author may choose: a level that is a
// pair, and the same one for processes and files.
func (w Wish) checkEngine() error {
	switch t := w.EngineType(); {
	case t == "":
	case t != w.Base.Type:
		return fmt.Errorf("%w: the spec's label %v: type %s is for containers, and class vm labels QEMU and virtiofsd: leave the "+
			"type out, use class process, or set labels.engine_levels = \"ignore\"", ErrWish, w.Engine, t)
	case w.Engine.User != systemUser || w.Engine.Role != systemRole:
		return fmt.Errorf("%w: the spec's label %v: with a type of one's own, user and role are %s and %s, which engines give "+
			"unasked: leave label=user: and label=role: out, or seLinuxOptions' user and role", ErrWish, w.Engine, systemUser, systemRole)
	}
	level, kept := tenant(w.Engine)
	mount, mountKept := tenant(w.EngineMount)
	if kept && mountKept && level != mount {
		return fmt.Errorf("%w: the spec's process label %v and mount label %v have different levels", ErrWish, w.Engine, w.EngineMount)
	}
	for _, l := range []Label{w.Engine, w.EngineMount} {
		if level, kept := tenant(l); kept {
			if err := level.Separates(false); err != nil {
				return fmt.Errorf("%w: the level of the spec's label %v: %w, or set labels.engine_levels = \"ignore\"", ErrWish, l, err)
			}
		}
	}
	return nil
}

// tenant gives the level of an engine's label if it is one tenant's: an empty label, a range (a
// privileged container has the system's) and s0 alone are not.
func tenant(l Label) (Level, bool) {
	level, single := l.Range.Single()
	return level, !l.IsZero() && single && level.Categories != (Set{})
}

// Level is what the registry is asked for; nil lets it draw. It is called on a valid wish that is
// not None's.
func (w Wish) Level() *Level {
	if w.Mode == Static {
		return &w.Label.Range.Low
	}
	if w.Share != "" {
		return nil // the group's
	}
	for _, l := range []Label{w.Engine, w.EngineMount} {
		if level, kept := tenant(l); kept {
			return &level
		}
	}
	return nil
}

// Chosen are the labels of everything that belongs to one sandbox, all at one level but Content.
// With None all are zero.
type Chosen struct {
	Level           Level
	QEMU, Virtiofsd Label
	// Image is of disks, Rootfs of folders that are served, Run of the sandbox's folder and logs.
	Image, Rootfs, Run Label
	// Content is of what every guest may read, SharedImage and SharedFolder of what every guest may
	// write: at the low level.
	Content, SharedImage, SharedFolder Label
	// EngineFile, EngineContent and PlainFile are types that a served folder may have as well, at a
	// level that fits.
	EngineFile, EngineContent, PlainFile string
	// PoweredOff is of disks that cloister made, once the sandbox has stopped.
	PoweredOff Label
	// Template is of memory that many sandboxes map and nobody can change, at the low level; zero:
	// the types have none.
	Template Label
	// Relabel is whether files that are not labelled so already are to be.
	Relabel bool
}

// Types are the types that a sandbox really gets of a set: a base label or a static one has its
// own. The kernel is asked about these, not about the set's.
func (w Wish) Types(t Types) Types {
	switch {
	case w.Mode == Static:
		t.QEMU = w.Label.Type
		if !w.Image.IsZero() {
			t.Image = w.Image.Type
		}
	case !w.Base.IsZero():
		t.QEMU = w.Base.Type
	}
	return t
}

// Candidates are the sets of types of a sandbox, in the order in which they are tried.
func (w Wish) Candidates(kvm bool) []Types {
	all := Candidates(kvm)
	for i, t := range all {
		all[i] = w.Types(t)
	}
	return all
}

// systemUser is the SELinux user that engines give containers and their files, systemRole the role
// of their processes. Both come from container-selinux's file of contexts, also for a container
// whose type somebody chose.
const systemUser, systemRole = "system_u", "system_r"

// Choose gives the labels of a sandbox. own is this process's label, whose role is taken for
// processes. Under Cloister's types the user is systemUser, also when a login has started the
// engine: the policies let nobody make files of another user, and engines mount root file systems
// with context=system_u:... Under other types it is own's, since their policies may let this
// process enter only domains of its user. level was reserved for the wish. An engine's type is not
// taken: it is a container's. It is pure; that the labels are valid on this host is asked elsewhere
// (lsm.Driver).
func Choose(w Wish, own Label, types Types, level Level) (Chosen, error) {
	if w.Mode == None {
		return Chosen{}, nil
	}
	if own.IsZero() {
		return Chosen{}, fmt.Errorf("%w: the label of this process is not known", ErrWish)
	}
	if want := w.Level(); want != nil && *want != level {
		return Chosen{}, fmt.Errorf("%w: level %v was reserved, %v was asked for", ErrWish, level, *want)
	}
	process := own.WithLevel(level)
	if types.ours() {
		process.User = systemUser
	}
	file := process
	if w.Mode == Static {
		process.User, process.Role, file.User = w.Label.User, w.Label.Role, w.Label.User
	}
	file.Role = "object_r"
	low := file.WithLevel(Level{Sensitivity: level.Sensitivity})
	c := Chosen{
		Level: level, Relabel: w.Mode != Static,
		QEMU: process.WithType(types.QEMU), Virtiofsd: process.WithType(types.Virtiofsd),
		Image: file.WithType(types.Image), Rootfs: file.WithType(types.Rootfs), Run: file.WithType(types.Run),
		Content: low.WithType(types.Content), SharedImage: low.WithType(types.Image),
		SharedFolder: low.WithType(cmp.Or(types.Shared, types.Rootfs)),
		PoweredOff:   low.WithType(types.PoweredOff), EngineFile: types.EngineFile, EngineContent: types.EngineContent,
		PlainFile: types.PlainFile,
	}
	if types.Template != "" {
		c.Template = low.WithType(types.Template)
	}
	if w.Relabel != nil {
		c.Relabel = *w.Relabel
	}
	if !w.Base.IsZero() {
		c.QEMU.Type = w.Base.Type
	}
	if w.Mode == Static {
		c.QEMU = w.Label
		if !w.Image.IsZero() {
			c.Image = w.Image
		}
	}
	return c, nil
}
