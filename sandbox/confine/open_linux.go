// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/oci"
)

// Config says which mandatory access control sandboxes get. It is the part [labels] of the
// configuration.
type Config struct {
	MAC             string `toml:"mac"`               // selinux or none; default selinux; none is refused on an enforcing host
	AllowPermissive bool   `toml:"allow_permissive"`  // start on a host that labels and does not enforce, for trying things out
	Mode            string `toml:"mode"`              // dynamic or static; default dynamic
	Label           string `toml:"label"`             // for static: QEMU's whole label
	Image           string `toml:"image"`             // for static: the disks' label
	Base            string `toml:"base"`              // for dynamic: a label whose type QEMU gets
	Relabel         *bool  `toml:"relabel"`           // whether files are labelled; default yes when dynamic, no when static
	Share           string `toml:"share"`             // name of a group of sandboxes that hold one level on purpose
	EngineLevels    string `toml:"engine_levels"`     // keep or ignore: whether a level that the engine asks for, which must be a pair, is used; default keep
	Range           string `toml:"range"`             // what levels are drawn from, as s0:c0.c1023; default cloister's own range
	AllowWholeDisks bool   `toml:"allow_whole_disks"` // give a guest a disk that is not a partition or volume

	Mounts []Rule `toml:"mounts"` // how volumes are labelled; default: their labels stay and must fit
}

// Rule says how a folder of the host and what is below it is labelled when it is a volume. The nearest
// folder counts.
type Rule struct {
	Source  string         `toml:"source"`
	Sharing labels.Sharing `toml:"sharing"` // private, shared, readonly, keep or label
	Label   string         `toml:"label"`   // for the sharing label
}

// Options are what a driver needs to know of a sandbox and its host.
type Options struct {
	Config Config
	// Root is the folder whose registry and journal all sandboxes of the host share.
	Root string
	// Sandbox names the sandbox, uniquely on the host; Tenant is whose files its volumes are.
	Sandbox, Tenant string
	// Annotations and Engine are what the workload asks for.
	Annotations oci.LabelSettings
	Engine      oci.Labels
	// KVM is whether the machine runs on it: without, QEMU needs memory that is written and executed.
	KVM bool
	// Programs are the files that will be started.
	Programs lsm.Programs
	// Host is this machine when zero.
	Host lsm.Host
}

// Open finds out, without an effect, how a sandbox will be confined. What this host cannot honour is
// an error.
func Open(o Options) (Driver, error) {
	host, err := lsm.Open(lsm.Options{Mode: lsm.Mode(o.Config.MAC), AllowPermissive: o.Config.AllowPermissive, Host: o.Host})
	if err != nil {
		return nil, err
	}
	if host.Mode() == lsm.ModeNone {
		return openNone(host, o)
	}
	return openSELinux(host, o)
}

// wish is what configuration, annotations and engine ask for together; an annotation takes the place
// of the configuration's setting.
func wish(c Config, said oci.LabelSettings, engine oci.Labels) (labels.Wish, error) {
	w := labels.Wish{Mode: labels.Mode(cmp.Or(said.Mode, c.Mode)), Relabel: c.Relabel, Share: cmp.Or(said.Share, c.Share)}
	if said.Relabel != "" {
		yes := said.Relabel == "yes"
		w.Relabel = &yes
	}
	if w.Mode == labels.None {
		return w, fmt.Errorf("labels.mode = %q: to label nothing say mac = \"none\": %w", w.Mode, errdefs.ErrInvalidArgument)
	}
	switch c.EngineLevels {
	case "", "keep":
	case "ignore":
		engine = oci.Labels{}
	default:
		return w, fmt.Errorf("labels.engine_levels = %q: want keep or ignore: %w", c.EngineLevels, errdefs.ErrInvalidArgument)
	}
	var errs []error
	parse := func(field, text string) (l labels.Label) {
		if text == "" {
			return l
		}
		l, err := labels.Parse(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
		return l
	}
	w.Label = parse("labels.label", cmp.Or(said.Label, c.Label))
	w.Image = parse("labels.image", cmp.Or(said.Image, c.Image))
	w.Base = parse("labels.base", cmp.Or(said.Base, c.Base))
	w.Engine = parse("process.selinuxLabel", engine.Process)
	w.EngineMount = parse("linux.mountLabel", engine.Mount)
	return w, errors.Join(errs...)
}
