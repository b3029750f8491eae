// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"

	"cloister/labels"
)

// Errors that a caller tells apart. ErrEnforcing, ErrPermissive and ErrInvalid are about the host
// or the config and come before anything is started. ErrWrongLabel and ErrWrongProgram are about a
// process that runs: the caller kills it.
var (
	ErrEnforcing = errors.New("SELinux is enforcing, so mac = \"none\" is refused: leave mac out under [labels], and run: " +
		"cloister policy install")
	ErrPermissive = errors.New("SELinux is permissive: it logs denials and enforces none: run: setenforce 1 (or set " +
		"allow_permissive = true under [labels])")
	ErrInvalid      = errors.New("label is not valid on this host")
	ErrWrongLabel   = errors.New("wrong label")
	ErrWrongProgram = errors.New("wrong program")
)

// Mode names a driver in the config.
type Mode string

// The drivers there are.
const (
	ModeSELinux Mode = "selinux"
	ModeNone    Mode = "none"
)

// Options are what the config says about labels. The zero value wants SELinux to enforce.
type Options struct {
	// Mode is "selinux" when empty: no label must be asked for by name.
	Mode Mode
	// AllowPermissive accepts a host that labels and does not enforce, for trying things out.
	AllowPermissive bool
	// Host is this machine when zero.
	Host Host
}

// Driver labels processes and sockets, or, as "none", says that it does not. It does not change
// after Open; its methods may be called at once.
type Driver struct {
	mode            Mode
	allowPermissive bool
	host            Host
	own             labels.Label
}

// Open checks that the host can do what is asked: "selinux" needs it enabled with a policy, "none"
// needs it not enforcing. It never falls back from one to the other: a host whose SELinux fails to
// come up would otherwise run its guests without labels, and nobody would notice.
func Open(o Options) (*Driver, error) {
	d := &Driver{mode: o.Mode, allowPermissive: o.AllowPermissive, host: o.Host}
	switch o.Mode {
	case "", ModeSELinux:
		d.mode = ModeSELinux
	case ModeNone:
	default:
		return nil, fmt.Errorf("mac driver %q: want %q or %q", o.Mode, ModeSELinux, ModeNone)
	}
	if err := d.checkHost(); err != nil {
		return nil, fmt.Errorf("mac driver %q: %w", d.mode, err)
	}
	if d.mode == ModeSELinux {
		own, err := d.host.OwnLabel()
		if err != nil {
			return nil, fmt.Errorf("mac driver %q: %w: is a policy loaded (sestatus)?", d.mode, err)
		}
		d.own = own
	}
	return d, nil
}

// checkHost is asked again before every start: the mode may change under us. So it is not kept in
// the Driver, as go-selinux keeps it for the life of a process.
func (d *Driver) checkHost() error {
	enabled, err := d.host.Enabled()
	if err != nil {
		return err
	}
	enforcing, err := d.host.Enforcing()
	switch {
	case err != nil:
		return err
	// QEMU would run in the shim's own domain, which may do far more than a guest's.
	case d.mode == ModeNone && enforcing:
		return ErrEnforcing
	case d.mode == ModeNone:
		return nil
	case !enabled:
		return fmt.Errorf("%w: boot with security=selinux and a policy, or leave mac out under [labels]: "+
			"the default uses what the host has", ErrDisabled)
	case !enforcing && !d.allowPermissive:
		return ErrPermissive
	}
	return nil
}

// ready is what holds before label is used for anything: the host still is what Open found, and the
// policy knows the label. A label that a driver "none" cannot honour is an error, not ignored.
func (d *Driver) ready(label labels.Label) error {
	if d == nil {
		return errors.New("no driver: open one by name")
	}
	if err := d.checkHost(); err != nil {
		return err
	}
	if d.mode == ModeNone {
		if !label.IsZero() {
			return fmt.Errorf("label %v cannot be applied with mac = \"none\": leave mac out under [labels]", label)
		}
		return nil
	}
	return d.host.Valid(label)
}

// Mode names the driver.
func (d *Driver) Mode() Mode { return d.mode }

// Host is what the driver asks.
func (d *Driver) Host() Host { return d.host }

// OwnLabel is the label this process had when the driver was opened; zero with "none". User and
// role of all labels that a sandbox gets come from it.
func (d *Driver) OwnLabel() labels.Label { return d.own }

// As is the driver as a process with another label would have it, to ask what that process may do.
// `cloister check` asks so for the shim, in whose domain it does not run. Verify and Sockets act as
// this process all the same.
func (d *Driver) As(own labels.Label) *Driver {
	other := *d
	other.own = own
	return &other
}

// Strength says in a few words what the driver is worth on this host, for status and people.
func (d *Driver) Strength() string {
	if d.mode == ModeNone {
		return "none: machines are kept apart by their guests and QEMU's jail alone, plain containers by what OCI gives"
	}
	enforcing, err := d.host.Enforcing()
	switch {
	case err != nil:
		return "selinux, mode unknown: " + err.Error()
	case !enforcing:
		return "selinux, permissive: denials are logged and not enforced"
	}
	return "selinux, enforcing"
}

// Proof is what was read back from the kernel.
type Proof struct {
	// Label is zero when there was nothing to verify; Note says so.
	Label   labels.Label
	Threads int
	Note    string
}

// Verify reads back the label of every thread of pid and its program. It is called while the
// process cannot have been reaped, since another process could have its pid by then, and before it
// does anything for a guest. Threads are read one by one, because a label belongs to a thread, not
// to a process. With the driver "none" it checks that the host still does not enforce, and the
// program. An empty program is not checked. Any error means that the process must be killed.
func (d *Driver) Verify(pid int, want labels.Label, program string) (Proof, error) {
	if err := d.checkHost(); err != nil {
		return Proof{}, fmt.Errorf("verify pid %d: %w", pid, err)
	}
	if program != "" {
		if err := d.host.checkProgram(pid, program); err != nil {
			return Proof{}, fmt.Errorf("verify: %w", err)
		}
	}
	if d.mode == ModeNone {
		return Proof{Note: "no label was verified: mac = \"none\""}, nil
	}
	if want.IsZero() {
		return Proof{}, fmt.Errorf("verify pid %d: %w: no label is expected", pid, ErrInvalid)
	}
	threads, err := d.host.checkThreads(pid, want)
	if err != nil {
		return Proof{}, fmt.Errorf("verify: %w", err)
	}
	return Proof{Label: want, Threads: threads, Note: fmt.Sprintf("read back from %d threads", threads)}, nil
}

// VerifyWaiting is Verify for a process that waits to execute its program: the label that it will
// run under is read back (attr/exec). This is the first process of a plain container, which the OCI
// runtime has created and not started. program has no meaning.
func (d *Driver) VerifyWaiting(pid int, want labels.Label, _ string) (Proof, error) {
	return d.verifyBy(pid, want, d.host.checkNext)
}

// VerifyStarted is Verify for a process that was told to execute its program: it runs under the
// label or is about to. program has no meaning.
func (d *Driver) VerifyStarted(pid int, want labels.Label, _ string) (Proof, error) {
	return d.verifyBy(pid, want, d.host.checkStarted)
}

// verifyBy is what VerifyWaiting and VerifyStarted share: the host is asked again, a label is
// expected, and check reads it back.
func (d *Driver) verifyBy(pid int, want labels.Label, check func(int, labels.Label) (int, error)) (Proof, error) {
	if err := d.checkHost(); err != nil {
		return Proof{}, fmt.Errorf("verify pid %d: %w", pid, err)
	}
	if d.mode == ModeNone {
		return Proof{Note: "no label was verified: mac = \"none\""}, nil
	}
	if want.IsZero() {
		return Proof{}, fmt.Errorf("verify pid %d: %w: no label is expected", pid, ErrInvalid)
	}
	threads, err := check(pid, want)
	if err != nil {
		return Proof{}, fmt.Errorf("verify: %w", err)
	}
	return Proof{Label: want, Threads: threads, Note: fmt.Sprintf("read back from %d threads", threads)}, nil
}
