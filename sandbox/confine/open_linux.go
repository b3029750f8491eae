// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/labels/apparmor"
	"cloister/labels/lsm"
	"cloister/oci"
)

// Config is the part [labels] of the configuration: which mandatory access control sandboxes get.
type Config struct {
	// MAC is auto, selinux, apparmor or none. auto is SELinux where it is enabled, else AppArmor
	// where it is enabled, else none with a warning. none is refused where SELinux enforces;
	// default auto.
	MAC string `toml:"mac"`
	// AllowPermissive starts sandboxes on a host that labels and does not enforce, to try things
	// out; default false.
	AllowPermissive bool `toml:"allow_permissive"`
	// Mode is dynamic (a level is drawn for each sandbox) or static (Label is used as it is);
	// default dynamic.
	Mode string `toml:"mode"`
	// Label is QEMU's whole label, for static.
	Label string `toml:"label"`
	// Image is the label of disks, for static.
	Image string `toml:"image"`
	// Base is a label whose type QEMU gets, for dynamic; default: the policy module's own type.
	Base string `toml:"base"`
	// Relabel says whether files are labelled; default true when dynamic, false when static.
	Relabel *bool `toml:"relabel"`
	// Share names a group of sandboxes that hold one level on purpose; default none.
	Share string `toml:"share"`
	// EngineLevels is keep or ignore: whether a level that an engine or a pod asks for is used. It
	// must be a pair of categories; default keep.
	EngineLevels string `toml:"engine_levels"`
	// EngineDisable is refuse or confine: what becomes of a container whose engine was told to give
	// it no label (label=disable, as far as the engine passes it on: Podman does). confine gives it
	// a label as every other; default refuse.
	EngineDisable string `toml:"engine_disable"`
	// Range is what levels are drawn from, such as s0:c0.c1023; default: the range of the shim's
	// own label.
	Range string `toml:"range"`
	// AllowWholeDisks lets a guest have a disk that is not a partition or a volume; default false.
	AllowWholeDisks bool `toml:"allow_whole_disks"`

	// Mounts are rules for the labels of volumes, by folder of the host. The nearest folder above a
	// volume counts; default none: a volume keeps its label, which must fit.
	Mounts []Rule `toml:"mounts"`
}

// Rule says how the volumes at and below a folder of the host are labelled.
type Rule struct {
	// Source is the folder.
	Source string `toml:"source"`
	// Sharing is private, shared, readonly, keep or label.
	Sharing labels.Sharing `toml:"sharing"`
	// Label is the label for sharing = "label".
	Label string `toml:"label"`
}

// Options are what a driver needs to know of a sandbox and its host.
type Options struct {
	Config Config
	// Chosen is the driver that Wish was made for; another one by now is an error. Empty: any.
	Chosen MAC
	// Root is the folder whose registry and journal all sandboxes of the host share.
	Root string
	// Sandbox names the sandbox, uniquely on the host; Tenant is whose files its volumes are.
	Sandbox, Tenant string
	// Annotations are what the workload asks for. A host that labels nothing refuses them.
	Annotations oci.LabelSettings
	// Wish is what is asked for; see the function Wish. Types are sets of types: the first that
	// works on this host is used.
	Wish  labels.Wish
	Types []labels.Types
	// Programs are the files that will be started; none for plain containers, which run files of
	// their own.
	Programs lsm.Programs
	// KVM is whether the machine runs on it.
	KVM bool
	// Share is the folder that the file server shows, Guest the files of the guest image.
	Share string
	Guest []string
	// Attacker is a program that will stand for those of a sandbox; see sandbox/prove.
	Attacker string
	// Host and AppArmor are this machine's when zero.
	Host     lsm.Host
	AppArmor apparmor.Host
}

// plain says that the sandbox is one of plain containers.
func (o *Options) plain() bool { return o.Programs == (lsm.Programs{}) }

// MAC names a driver in the config.
type MAC string

// The drivers.
const (
	SELinux  MAC = "selinux"
	AppArmor MAC = "apparmor"
	None     MAC = "none"
	auto     MAC = "auto"
)

// Choose names the driver for a host. It decides by what the kernel has enabled, never by what
// works: a host that enforces and lacks something is an error later, not another driver. "auto"
// never falls back: a host that enforces and whose policy lacks the module would otherwise run
// guests without any label.
func Choose(c Config, host lsm.Host, profiles apparmor.Host) (MAC, error) {
	switch asked := MAC(cmp.Or(c.MAC, string(auto))); asked {
	case SELinux, AppArmor, None:
		return asked, nil
	case auto:
	default:
		return "", fmt.Errorf("labels.mac = %q: want %q, %q, %q or %q: %w", c.MAC, auto, SELinux, AppArmor,
			None, errdefs.ErrInvalidArgument)
	}
	enabled, err := host.Enabled()
	if err != nil {
		return "", err
	}
	if enabled {
		return SELinux, nil
	}
	// Before AppArmor is asked: whoever has set a label wants SELinux, on whatever host this file
	// came to.
	if wish := c.labelled(); wish != "" {
		return "", fmt.Errorf("labels.%s is set, and SELinux is not enabled on this host: enable it, or leave that setting out: %w",
			wish, errdefs.ErrInvalidArgument)
	}
	enabled, err = profiles.Enabled()
	if err != nil {
		return "", err
	}
	if enabled {
		return AppArmor, nil
	}
	return None, nil
}

// Chosen names the driver for this machine.
func Chosen(c Config) (MAC, error) { return Choose(c, lsm.Host{}, apparmor.Host{}) }

// labelled is a setting that SELinux alone can honour; empty: none is set. Settings that have a
// meaning for every driver, such as range, are not among them.
func (c Config) labelled() string {
	for _, s := range []struct{ name, value string }{
		{"mode", c.Mode}, {"label", c.Label}, {"image", c.Image}, {"base", c.Base}, {"share", c.Share},
	} {
		if s.value != "" {
			return s.name
		}
	}
	return ""
}

// Open finds out, without an effect, how a sandbox will be confined. What this host cannot honour
// is an error. The first effect is Reserve's. So a host that lacks something costs an error and no
// cleanup.
func Open(o Options) (Driver, error) {
	chosen, err := Choose(o.Config, o.Host, o.AppArmor)
	if err != nil {
		return nil, err
	}
	if o.Chosen != "" && o.Chosen != chosen {
		return nil, fmt.Errorf("the host had mac %q when the sandbox was planned and has %q now: start it again: %w",
			o.Chosen, chosen, errdefs.ErrFailedPrecondition)
	}
	if chosen == AppArmor {
		return openAppArmor(o)
	}
	host, err := lsm.Open(lsm.Options{Mode: lsm.Mode(chosen), AllowPermissive: o.Config.AllowPermissive, Host: o.Host})
	if err != nil {
		return nil, err
	}
	if chosen == None {
		return openNone(host, o)
	}
	return openSELinux(host, o)
}

// Wish is what configuration, annotations and engine ask for together. An annotation counts instead
// of the configuration's setting. A driver that labels nothing is asked for nothing. It decides
// nothing about whether the wish can be met: labels.Wish.Validate and Driver.Open do. All labels
// that cannot be parsed are named together.
func Wish(chosen MAC, c Config, said oci.LabelSettings, engine oci.Labels) (labels.Wish, error) {
	if chosen != SELinux {
		return labels.Wish{}, nil
	}
	w := labels.Wish{Mode: labels.Mode(cmp.Or(said.Mode, c.Mode)), Relabel: c.Relabel, Share: cmp.Or(said.Share, c.Share)}
	if said.Relabel != "" {
		yes := said.Relabel == "yes"
		w.Relabel = &yes
	}
	if w.Mode == labels.None {
		return w, fmt.Errorf("labels.mode = %q: to use no labels, set mac = \"none\": %w", w.Mode, errdefs.ErrInvalidArgument)
	}
	switch c.EngineDisable {
	case "", "refuse":
		w.Disabled = engine.Disable
	case "confine":
	default:
		return w, fmt.Errorf("labels.engine_disable = %q: want refuse or confine: %w", c.EngineDisable, errdefs.ErrInvalidArgument)
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
