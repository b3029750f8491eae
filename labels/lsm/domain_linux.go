// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"

	"cloister/labels"
)

// ErrNoDomain is wrapped when no set of types works on this host. The error names the reason for
// each set that was tried.
var ErrNoDomain = errors.New("no domain for sandboxes works on this host: run: cloister policy install")

// Programs are the files that are started under a label, as the kernel will see them. None means
// plain containers, which start files of their own.
type Programs struct {
	QEMU, Virtiofsd string
}

// ChooseTypes gives the first of the candidates that the kernel, asked now, says works: labels of
// its types are valid, this process may enter its domains through the programs, no domain is
// permissive by itself, and selfTest, if not nil, passes. That a type exists says nothing: Debian's
// policy has svirt_t, but lets libvirt's daemon alone enter it. With the driver "none" it gives no
// types.
func (d *Driver) ChooseTypes(candidates []labels.Types, programs Programs, selfTest func(labels.Types) error) (labels.Types, error) {
	if d.mode == ModeNone {
		return labels.Types{}, nil
	}
	problems := []error{ErrNoDomain}
	for _, types := range candidates {
		err := d.checkTypes(types, programs)
		if err == nil && selfTest != nil {
			err = selfTest(types)
		}
		if err == nil {
			return types, nil
		}
		problems = append(problems, fmt.Errorf("types %s: %w", types.Name, err))
	}
	return labels.Types{}, errors.Join(problems...)
}

// checkTypes asks about one set. Programs that are not given are those of containers, which carry
// the label of the root file system: that must be an entry point then.
func (d *Driver) checkTypes(types labels.Types, programs Programs) error {
	// Any pair will do for the question; it is asked at a level as guests have.
	pair, err := labels.NewPair(1022, 1023)
	if err != nil {
		return err
	}
	chosen, err := labels.Choose(labels.Wish{}, d.own, types, labels.NewLevel(d.own.Range.Low.Sensitivity, pair))
	if err != nil {
		return err
	}
	for _, label := range []labels.Label{chosen.QEMU, chosen.Virtiofsd, chosen.Image, chosen.Rootfs, chosen.Run, chosen.Content} {
		if err := d.host.Valid(label); err != nil {
			return err
		}
	}
	if programs == (Programs{}) {
		return d.checkEntry(chosen.QEMU, chosen.Rootfs, "run: cloister policy install")
	}
	if err := d.CheckDomain(chosen.QEMU, programs.QEMU); err != nil {
		return err
	}
	return d.CheckDomain(chosen.Virtiofsd, programs.Virtiofsd)
}

// CheckDomain asks whether this process may start program under label, and whether the label's
// domain is enforced. It starts nothing. Entering a domain needs three things of the policy: the
// transition, a program that is an entry point of the domain, and a domain whose denials count.
func (d *Driver) CheckDomain(label labels.Label, program string) error {
	file, err := d.host.programLabel(program)
	if err != nil {
		return err
	}
	return d.checkEntry(label, file, "restorecon "+program)
}

// checkEntry is CheckDomain for a program that is labelled file.
func (d *Driver) checkEntry(label, file labels.Label, remedy string) error {
	questions := []struct {
		source, target labels.Label
		class, perm    string
		remedy         string
	}{
		{d.own, label, "process", "transition", "the policy lets only other domains enter it: cloister policy install"},
		{label, file, "file", "entrypoint", "the program's label is not the domain's: " + remedy},
	}
	for _, q := range questions {
		decision, err := d.host.Access(q.source, q.target, q.class, q.perm)
		if err != nil {
			return err
		}
		if !decision.Allowed {
			return fmt.Errorf("%v has no %s of class %s on %v: %s", q.source, q.perm, q.class, q.target, q.remedy)
		}
	}
	// No permission is asked for: the flags of the answer tell whether the domain is permissive by
	// itself (semanage permissive -a), which the mode of the host does not show.
	decision, err := d.host.Access(label, label, "process")
	if err != nil {
		return err
	}
	if decision.Permissive && !d.allowPermissive {
		return fmt.Errorf("%w: only the domain %s is permissive: run: semanage permissive -d %s", ErrPermissive, label.Type, label.Type)
	}
	return nil
}

// programLabel is what the kernel sees at exec: the label of the file that a link leads to.
func (h Host) programLabel(program string) (labels.Label, error) {
	if h.Program != nil {
		return h.Program(program)
	}
	return PathLabel(program)
}
