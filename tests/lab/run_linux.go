// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
	"time"

	"cloister/tests/lab/wire"
)

// longAsk is for requests that do next to nothing: an emulated machine may still take long.
const longAsk = time.Minute

// attack runs the attempt and its first two controls, under the enforcing policy.
func (w *world) attack(a attempt) (result, error) {
	r := result{attempt: a}
	answer, err := w.try(a, a.try, a.attacker(), a.target())
	if err != nil {
		return r, err
	}
	target := ""
	if a.tag == mcs {
		target = w.levels[a.target()]
	}
	seen := denials(answer.Audit)
	switch {
	case answer.Exit == 0:
		r.trouble = "succeeded"
	// The probe's exit status 2: it did not understand the operation, or could not prepare it.
	case answer.Exit == 2:
		r.trouble = "was not tried: " + strings.TrimSpace(answer.Out)
	case !a.want.in(seen, w.levels[a.attacker()], target):
		r.trouble = fmt.Sprintf("%s, without the denial %s: %s", strings.TrimSpace(answer.Out), a.want, brief(seen))
	default:
		r.denied = true
	}
	r.controls++
	if err := w.control(&r, "own", a.ownTry(), a.attacker(), a.attacker()); err != nil {
		return r, err
	}
	if a.tag == mcs {
		r.controls++
		if err := w.control(&r, "at the target's level", a.try, a.target(), a.target()); err != nil {
			return r, err
		}
	}
	return r, nil
}

// control runs an operation that has to work.
func (w *world) control(r *result, name, operation, by, against string) error {
	a := r.attempt
	if operation != a.try {
		// Another operation than the attempt's: nothing is handed on.
		a.open, a.send = "", ""
	}
	answer, err := w.try(a, operation, by, against)
	if err != nil {
		return err
	}
	if answer.Exit == 0 {
		r.held++
		return nil
	}
	r.notes = append(r.notes, fmt.Sprintf("control %s: exit %d: %s: %s", name, answer.Exit,
		strings.TrimSpace(answer.Out), brief(denials(answer.Audit))))
	return nil
}

// withoutPolicy runs the attempt with its domain permissive: it shows that nothing but the policy
// stood in the way.
func (w *world) withoutPolicy(r *result) error {
	answer, err := w.try(r.attempt, r.try, r.attacker(), r.target())
	if err != nil {
		return err
	}
	switch {
	case r.permissive == "usage" && answer.Exit == 2, r.permissive == "" && answer.Exit == 0,
		r.permissive != "" && strings.HasPrefix(answer.Out, "errno "+r.permissive+" "):
		r.permissiveHeld = true
	default:
		r.notes = append(r.notes, fmt.Sprintf("permissive: exit %d, want %q: %s", answer.Exit, r.permissive, strings.TrimSpace(answer.Out)))
	}
	return nil
}

// brief is a list of denials in short.
func brief(list []denial) string {
	if len(list) == 0 {
		return "no denial"
	}
	var text []string
	for _, d := range list {
		text = append(text, fmt.Sprintf("%s:%s -> %s:%s:%s {%s} %s", d.Source.Type, d.Source.Range, d.Target.Type, d.Target.Range, d.Class,
			strings.Join(d.Permissions, " "), d.Path))
	}
	return strings.Join(text, "; ")
}

// load loads one of the two policies: policy or permissive.
func (w *world) load(name string) error {
	_, err := w.m.ask(wire.Request{Policy: &wire.Policy{Load: "/lab/policy/" + name}}, 2*time.Minute)
	return err
}
