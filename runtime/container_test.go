// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

func TestExecIDs(t *testing.T) {
	var h history
	c := &container{id: "c", execs: map[string]*process{}, init: h.process(Ref{Container: "c"})}
	e := h.process(Ref{Container: "c", Exec: "e"})
	if _, err := c.process("e"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("process(e) = %v, want not found", err)
	}
	if err := c.add(e); err != nil {
		t.Fatal(err)
	}
	if err := c.add(e); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("add(e) again = %v, want already exists", err)
	}
	if all := c.all(); len(all) != 2 || all[1] != c.init {
		t.Errorf("all() = %v, want the container's own process last", all)
	}
	c.drop("e")
	if err := c.add(e); err != nil {
		t.Errorf("add(e) after drop = %v", err)
	}
}
