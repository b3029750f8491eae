// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// MaxBytes bounds a document that Parse, ParseProcess or ParseResources reads: engines pass on what
// users write.
const MaxBytes = 16 << 20

// Options is what a host's configuration allows workloads, and what its guest image offers. The
// zero value has the defaults; a workload can raise none of them.
type Options struct {
	// Annotations are the io.cloister.* annotations that are switched on; default none.
	Annotations []string `toml:"annotations"`
	// GuestDevices are devices of the guest's kernel beyond the standard set; default fuse and tun.
	GuestDevices []GuestDevice `toml:"guest_devices"`
	// BlockDevices hands block devices of the host under linux.devices to the guest as disks;
	// default false.
	BlockDevices bool `toml:"block_devices"`
	// Sockets are the host's stream sockets, or folders of them, that volumes may be; default none.
	Sockets []string `toml:"sockets"`
	// Watch are folders of the host. What the host changes in volumes from there raises inotify
	// events in the guest; default none.
	Watch []string `toml:"watch"`
}

// devices gives the default for a list that is not set; an empty one stays empty.
func (o Options) devices() []GuestDevice {
	if o.GuestDevices == nil {
		return []GuestDevice{Fuse, Tun}
	}
	return o.GuestDevices
}

// Parse reads a config.json. Its error lists every field that cannot be honoured and is of the
// class errdefs.ErrInvalidArgument. Unknown JSON keys are skipped, as config.md of the
// specification demands.
func Parse(config []byte, opts Options) (*Workload, error) {
	var spec specs.Spec
	if err := decode(config, &spec); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return understand(&spec, opts)
}

// understand is Parse for a document that is decoded. Checks go on after a problem, so that a user
// sees all of them at once. settings comes after mounts, because an annotation can name mounts.
func understand(spec *specs.Spec, opts Options) (*Workload, error) {
	var p problems
	w := &Workload{
		Class:       ClassVM,
		Hostname:    spec.Hostname,
		Domainname:  spec.Domainname,
		Annotations: spec.Annotations,
		spec:        spec,
	}
	p.version(spec.Version)
	p.platforms(spec)
	w.role(&p)
	w.root(&p)
	w.process(&p)
	w.hooks(&p)
	w.mounts(&p)
	w.settings(opts, &p)
	if spec.Linux == nil {
		p.refuse("linux", nil, "is missing: cloister runs Linux containers only")
		return nil, p.err()
	}
	w.linux(opts, &p)
	if err := p.err(); err != nil {
		return nil, err
	}
	w.Ignored = p.ignored
	return w, nil
}

// decode reads one bounded JSON document.
func decode(data []byte, into any) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%d bytes, at most %d: %w", len(data), MaxBytes, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return nil
}

// version accepts every 1.x: the specification promises that minor versions only add.
func (p *problems) version(v string) {
	major, _, ok := strings.Cut(v, ".")
	if !ok || major != "1" {
		p.refuse("ociVersion", v, "only 1.x is known")
	}
}

// platforms refuses sections of other platforms, which would otherwise be dropped.
func (p *problems) platforms(s *specs.Spec) {
	const text = "is of another platform: remove it"
	if s.Solaris != nil {
		p.refuse("solaris", nil, text)
	}
	if s.Windows != nil {
		p.refuse("windows", nil, text)
	}
	if s.VM != nil {
		p.refuse("vm", nil, "cloister chooses the machine: remove it, and use cloister's configuration")
	}
	if s.ZOS != nil {
		p.refuse("zos", nil, text)
	}
	if s.FreeBSD != nil {
		p.refuse("freebsd", nil, text)
	}
}

// root checks the root file system. Its path may be relative to the bundle, which is not known
// here.
func (w *Workload) root(p *problems) {
	r := w.spec.Root
	if r == nil || r.Path == "" {
		p.refuse("root.path", nil, "is missing: name the root file system")
		return
	}
	if strings.ContainsRune(r.Path, 0) {
		p.refuse("root.path", r.Path, "holds a zero byte")
	}
	w.Rootfs = Rootfs{Path: path.Clean(r.Path), ReadOnly: r.Readonly}
}

// hooks sorts the hooks. Those that OCI runs in the container's namespaces are refused: those are
// in the guest, and the program is on the host.
func (w *Workload) hooks(p *problems) {
	h := w.spec.Hooks
	if h == nil {
		return
	}
	const text = "would run in the guest, which does not have the host's program: use createRuntime, or put the program in the image"
	if len(h.CreateContainer) > 0 {
		p.refuse("hooks.createContainer", h.CreateContainer[0].Path, text)
	}
	if len(h.StartContainer) > 0 {
		p.refuse("hooks.startContainer", h.StartContainer[0].Path, text)
	}
	w.Hooks = Hooks{
		Prestart:      p.hooks("prestart", h.Prestart), //nolint:staticcheck // deprecated, and still sent by engines
		CreateRuntime: p.hooks("createRuntime", h.CreateRuntime),
		Poststart:     p.hooks("poststart", h.Poststart),
		Poststop:      p.hooks("poststop", h.Poststop),
	}
}

// hooks checks the hooks of one point in a container's life. A timeout is in whole seconds.
func (p *problems) hooks(name string, in []specs.Hook) []Hook {
	out := make([]Hook, 0, len(in))
	for i, h := range in {
		field := fmt.Sprintf("hooks.%s[%d]", name, i)
		if !path.IsAbs(h.Path) || strings.ContainsRune(h.Path, 0) {
			p.refuse(field+".path", h.Path, "must be absolute")
		}
		hook := Hook{Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout != nil {
			if *h.Timeout <= 0 {
				p.refuse(field+".timeout", *h.Timeout, "must be above zero")
			}
			hook.TimeoutSeconds = *h.Timeout
		}
		out = append(out, hook)
	}
	return out
}
