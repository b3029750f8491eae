// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"

	"cloister/labels/policy"
)

// tag says what denies an attempt.
type tag string

const (
	mcs tag = "mcs" // the pair: the same at the target's level works
	te  tag = "te"  // the type
	cpb tag = "cap" // a capability that the domain has not
	own tag = "own" // what the shim does itself, whatever the policy says
)

// The parties. A and B are two sandboxes; C shares one category with A; S is a pair that two
// sandboxes have in common on purpose.
const (
	levelA = "s0:c100,c200"
	levelB = "s0:c300,c400"
	levelC = "s0:c100,c300"
	levelS = "s0:c500,c600"
)

// party is a sandbox or container with all it has.
type party struct {
	name, level string
}

func parties() []party { return []party{{"a", levelA}, {"b", levelB}, {"c", levelC}, {"s", levelS}} }

// domain is where an attacker is.
type domain struct {
	name    string // what its targets are called
	kind    string // its type
	through string // the program that enters it
	probe   string
	// usual is what works on a resource of its own.
	usual string
}

func domains() map[string]domain {
	return map[string]domain{
		"qemu":      {"qemu", policy.QEMUType, "/lab/bin/enter-shim", "/lab/probe/probe-qemu", "open-rw {dir}/image"},
		"virtiofsd": {"virtiofsd", policy.VirtiofsdType, "/lab/bin/enter-shim", "/lab/probe/probe-virtiofsd", "open-rw {dir}/rootfs/file"},
		"container": {
			"container", policy.ContainerType, "/lab/bin/enter-runtime",
			"/lab/probe/probe-container", "open-rw {dir}/volume/file",
		},
	}
}

// attempt is one thing that a broken-out process tries.
type attempt struct {
	name string
	from string
	tag  tag
	// try is the probe's operation. {dir} is the target's folder, {qemu.pid} and the like belong to
	// its processes, {fresh} and {victim} are made anew for each run.
	try string
	// open and send are files handed to the attacker: flags, a colon, the path.
	open, send string
	// fresh is the type of a file that is made at the target's level for each run; a trailing slash
	// makes it a folder.
	fresh string
	// own is an operation that works on a resource of its own. It is set when that is neither the
	// same operation nor the domain's usual one.
	own string
	// against is another party than B, by another than A.
	against, by string
	want        want
	// permissive is the error predicted for a permissive domain, or usage if it is the probe that
	// runs; empty is success.
	permissive string
}

// target is the party that is attacked.
func (a attempt) target() string {
	if a.against == "" {
		return "b"
	}
	return a.against
}

// attacker is the party that attacks.
func (a attempt) attacker() string {
	if a.by == "" {
		return "a"
	}
	return a.by
}

// ownTry is the control on a resource of the attacker's own.
func (a attempt) ownTry() string {
	switch {
	case a.own != "":
		return a.own
	case a.tag == mcs:
		return a.try
	default:
		return domains()[a.from].usual
	}
}

// key tells attempts apart.
func (a attempt) key() string { return a.from + ": " + a.name }

// check tells what is wrong with a table of attempts.
func check(list []attempt) error {
	seen := map[string]bool{}
	for _, a := range list {
		switch {
		case seen[a.key()]:
			return fmt.Errorf("attempt %q is listed twice", a.key())
		case a.want.source != domains()[a.from].kind:
			return fmt.Errorf("attempt %q wants a denial of %s", a.key(), a.want.source)
		case a.want.class == "" || a.want.permission == "" || a.want.target == "":
			return fmt.Errorf("attempt %q names no denial", a.key())
		case !slices.Contains([]tag{mcs, te, cpb}, a.tag):
			return fmt.Errorf("attempt %q has no tag", a.key())
		case a.fresh != "" && !strings.Contains(a.try, "{fresh}"):
			return fmt.Errorf("attempt %q does not use what is made for it", a.key())
		}
		seen[a.key()] = true
	}
	return nil
}

// result is what came of one attempt and its controls.
type result struct {
	attempt
	denied bool
	// why it does not count as denied.
	trouble string
	// controls that there are, and those that were as they should be.
	controls, held int
	permissiveHeld bool
	notes          []string
}

// closing is the matrix's last line.
func closing(policy string, list []result) string {
	var denied, succeeded, controls, held, permissive int
	for _, r := range list {
		if r.denied {
			denied++
		} else {
			succeeded++
		}
		controls += r.controls
		held += r.held
		if r.permissiveHeld {
			permissive++
		}
	}
	return fmt.Sprintf("attacks[selinux/%s]: %d tried, %d denied, %d succeeded; controls: %d of %d; permissive: %d succeeded",
		policy, len(list), denied, succeeded, held, controls, permissive)
}
