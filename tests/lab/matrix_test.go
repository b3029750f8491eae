// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// matrix runs every attempt with its controls.
func matrix(t *testing.T, l *lab) {
	t.Helper()
	e, m, list := l.sandboxes(t), l.machine, whole()
	var containers []plainContainer
	for _, id := range plains() {
		containers = append(containers, l.runPlain(t, id))
	}
	m.seen = nil // denials of earlier scenarios are not of these attempts
	begin := time.Now()
	stage := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
		begin = time.Now()
	}
	if err := (&world{m: m}).load("probing"); err != nil {
		t.Fatal(err)
	}
	w, err := makeWorld(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sandboxes(e); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids() {
		w.words[id]["template"] = templatesFolder + "/" + l.template
	}
	w.plains(containers)
	stage("world")
	results := make([]result, 0, len(list))
	for _, a := range list {
		r, err := w.attack(a)
		if err != nil {
			t.Fatalf("%s: %v", a.key(), err)
		}
		results = append(results, r)
	}
	stage("attacks")
	var open []string
	for _, a := range unmediated() {
		answer, err := w.try(a, a.try, a.attacker(), a.target())
		if err != nil {
			t.Fatalf("%s: %v", a.key(), err)
		}
		open = append(open, fmt.Sprintf("%-10s %-40s %s", a.from, a.name, strings.TrimSpace(answer.Out)))
	}
	unexpected(t, m)
	ofGuest := fromGuest(t, l)
	stage("guest's root")
	if err := w.load("permissive"); err != nil {
		t.Fatal(err)
	}
	for i := range results {
		if err := w.withoutPolicy(&results[i]); err != nil {
			t.Fatalf("%s: %v", results[i].key(), err)
		}
	}
	stage("permissive")
	refusedWhilePermissive(t, e)
	if err := w.load("policy"); err != nil {
		t.Fatal(err)
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	for _, c := range containers {
		if err := e.remove(c.id); err != nil {
			t.Error(err)
		}
	}
	m.seen = nil
	report(t, append(results, ofGuest...))
	t.Logf("not mediated, and not counted:\n%s", strings.Join(open, "\n"))
}

// refusedWhilePermissive starts a sandbox while its domains are permissive. The start has to be
// refused, with the reason.
func refusedWhilePermissive(t *testing.T, e *engine) {
	t.Helper()
	err := e.run("third")
	if err == nil || !strings.Contains(err.Error(), "permissive") {
		t.Errorf("a sandbox in a permissive domain: %v, want a refusal that says so", err)
	}
	_, _ = e.ctr("container", "delete", "third")
}

// report prints the table, and fails for whatever is not as it should be.
func report(t *testing.T, results []result) {
	t.Helper()
	var table strings.Builder
	for _, r := range results {
		state := "denied"
		if !r.denied {
			state = "NOT PROVED"
			t.Errorf("%s: %s", r.key(), r.trouble)
		}
		for _, note := range r.notes {
			t.Errorf("%s: %s", r.key(), note)
		}
		fmt.Fprintf(&table, "%-10s %-3s %-10s %-60s %s\n", r.from, r.tag, state, r.name, r.want)
	}
	t.Logf("\n%s", table.String())
	kind, err := chosenPolicy()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(closing(kind, results))
}
