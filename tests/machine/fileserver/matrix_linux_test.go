// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/confine"
	"cloister/sandbox/prove"
	"cloister/tests/threats"
)

// Who attacks, as rows of the matrix say it.
const (
	byServer = string(confine.FileServer)
	byQEMU   = string(confine.Machine)
	byGuest  = "guest" // its kernel
)

// TestFileServerMatrix attacks the file server and, from its place, the host. Each attack is made
// with all layers, where it must fail, and with none, where it must succeed, or its program must be
// shown to work; and each layer is tried alone. A lab runs this test on its host, in the server's
// domain or profile, and takes the rows into its matrix.
func TestFileServerMatrix(t *testing.T) {
	p := newPlace(t)
	r := prove.Report{MAC: p.mac, Layers: append(p.layers(), mounts, checks)}
	r.Outcomes = slices.Concat(p.ofServer(t), p.ofGuest(t), p.ofQEMU(t))
	r.Verdict = r.Closing()
	var table strings.Builder
	if err := r.Write(&table); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	if path := os.Getenv(reportVariable); path != "" {
		text, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if n := threats.Check(t, r); n > 0 {
		t.Errorf("%d attacks have succeeded", n)
	}
	fmt.Println(r.Verdict)
}

// ofServer are the attacks by a server that was taken over.
func (p *place) ofServer(t *testing.T) []prove.Outcome {
	t.Helper()
	list := broken(t, p.dir)
	all := make([]prove.Outcome, len(list))
	for i, said := range p.round(t, list, p.layers(), false) {
		all[i] = prove.Outcome{
			By: byServer, Attack: list[i].name, On: list[i].on, Denied: said != succeeded, Seen: strings.TrimPrefix(said, denied),
		}
	}
	p.alone(t, list, all)
	return all
}

// alone makes attacks with no layer and with each alone, and notes what they tell.
func (p *place) alone(t *testing.T, list []attack, all []prove.Outcome) {
	t.Helper()
	for i, said := range p.round(t, list, nil, true) {
		if all[i].Control = said == succeeded; !all[i].Control {
			all[i].Without = strings.TrimPrefix(said, denied)
		}
	}
	note := func(l prove.Layer, said []string) {
		for i := range all {
			if said[i] != succeeded {
				all[i].Layers = append(all[i].Layers, l)
			}
		}
	}
	for _, l := range p.layers() {
		note(l, p.round(t, list, []prove.Layer{l}, true))
	}
	note(mounts, p.round(t, list, nil, false))
}

// ofGuest are the attacks by a guest's kernel that was taken over.
func (p *place) ofGuest(t *testing.T) []prove.Outcome {
	t.Helper()
	list := rawAttacks(p.dir)
	all := make([]prove.Outcome, len(list))
	confined, worksThere := p.rawRound(t, list, p.layers(), false)
	plain, works := p.rawRound(t, list, nil, true)
	for i, r := range list {
		all[i] = prove.Outcome{By: byGuest, Attack: r.name, On: r.on, Denied: confined[i] != nil, Seen: text(confined[i])}
		err := errors.Join(worksThere[i], works[i])
		if r.works == nil && plain[i] != nil { // nothing is in the way there
			err = errors.Join(err, plain[i])
		}
		all[i].Control, all[i].Without = err == nil, text(err)
		if r.works != nil && plain[i] != nil {
			all[i].Layers = append(all[i].Layers, checks)
		}
	}
	note := func(l prove.Layer, bare bool, with ...prove.Layer) {
		results, _ := p.rawRound(t, list, with, bare)
		for i, r := range list {
			if r.works == nil && results[i] != nil {
				all[i].Layers = append(all[i].Layers, l)
			}
		}
	}
	for _, l := range p.layers() {
		note(l, true, l)
	}
	note(mounts, false)
	p.twins(t, list, all)
	return all
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// twins tells which layers stop a server that does not look at what it is sent.
func (p *place) twins(t *testing.T, list []raw, all []prove.Outcome) {
	t.Helper()
	var (
		attacks  []attack
		outcomes []prove.Outcome
		of       []int
	)
	for i, r := range list {
		if r.twin != nil {
			attacks, outcomes, of = append(attacks, *r.twin), append(outcomes, prove.Outcome{}), append(of, i)
		}
	}
	for i, said := range p.round(t, attacks, p.layers(), false) {
		if said == succeeded {
			t.Errorf("%s: a server that does not look is not stopped", list[of[i]].name)
		}
	}
	p.alone(t, attacks, outcomes)
	for i, o := range outcomes {
		to := &all[of[i]]
		if !o.Control {
			to.Control, to.Without = false, o.Without
		}
		to.Layers = append(to.Layers, o.Layers...)
	}
}

// rawRound sends requests to a server with some layers: what came of each, and of what a guest may
// send. A server that has ended is started again.
func (p *place) rawRound(t *testing.T, list []raw, with []prove.Layer, bare bool) (results, works []error) {
	t.Helper()
	results, works = make([]error, len(list)), make([]error, len(list))
	t.Run("requests: "+roundName(with, bare), func(t *testing.T) {
		h := newTree(t, p.dir, bare, func(dir string) { p.admitTree(t, dir) })
		serving := func() {
			ended := h.server == nil
			if !ended {
				select {
				case <-h.server.Done():
					ended = true
				default:
				}
			}
			if ended {
				p.serve(t, h, with)
			}
		}
		for i, r := range list {
			serving()
			results[i] = r.do(h)
			if err := h.unharmed(); err != nil {
				t.Errorf("%s: %v", r.name, err)
				results[i] = nil
			}
			if r.works != nil {
				serving()
				works[i] = r.works(h)
			}
		}
	})
	return results, works
}

// ofQEMU are malformed messages of a QEMU that was taken over. A message is denied if nothing but
// the server has changed: it may refuse it, ignore it or end. That the same connection served a
// guest before shows that the sender works.
func (p *place) ofQEMU(t *testing.T) []prove.Outcome {
	t.Helper()
	send := messages(t)
	names := make([]string, 0, len(send))
	for name := range send {
		names = append(names, name)
	}
	slices.Sort(names)
	var all []prove.Outcome
	for _, name := range names {
		o := prove.Outcome{By: byQEMU, Attack: "vhost-user", On: name, Control: true}
		var harm error
		o.Seen, harm = p.message(t, name, send[name], p.layers())
		o.Denied = harm == nil
		if _, harm = p.message(t, name, send[name], nil); harm == nil {
			o.Layers = append(o.Layers, checks)
		}
		all = append(all, o)
	}
	return all
}

// message sends one, and gives what the server did and what was harmed.
func (p *place) message(t *testing.T, name string, send func(f *front) error, with []prove.Layer) (seen string, harm error) {
	t.Helper()
	harm = errors.New("it was not sent")
	t.Run(name+": "+roundName(with, false), func(t *testing.T) {
		h := newTree(t, p.dir, false, func(dir string) { p.admitTree(t, dir) })
		p.serve(t, h, with)
		bystander := startVictim(t)
		defer func() { _, _ = bystander.Process.Kill(), bystander.Wait() }()
		err := send(h.guest.front)
		if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("%v: %v", harm, err) // the server's end of the socket has not done that
		}
		err = h.probe()
		select {
		case <-h.server.Done():
			seen = "the server has ended: " + text(h.server.Err())
		default:
			seen = "the server runs: " + cmp.Or(text(err), "it answers")
		}
		harm = errors.Join(h.unharmed(), h.unchanged(), bystander.Process.Signal(unix.Signal(0)), h.server.Stop())
		if harm != nil {
			t.Errorf("with %v: %v", with, harm)
		}
	})
	return seen, harm
}
