// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAttacker(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Attacker(strings.NewReader("read\t"+there+"\nread\t"+there+"-not\n"), &out); err != nil {
		t.Fatal(err)
	}
	if want := done + "\n" + done + "\n" + denied + "no such file or directory\n"; out.String() != want {
		t.Errorf("Attacker said %q, want %q", out.String(), want)
	}
	if err := Attacker(strings.NewReader("no such attack\t\n"), &out); err == nil {
		t.Error("an attack that is not known: no error")
	}
}

// TestRowsAreAttacks: every row names an attack that the attacker knows.
func TestRowsAreAttacks(t *testing.T) {
	if len(attacks) == 0 {
		t.Fatal("no attacks")
	}
	on := targets{
		dir: "/tmp/x", tcp: "127.0.0.1:1", abstract: "@x", socket: "/tmp/x/socket", disk: "7:0", key: 1,
		peerFiles: map[string]string{"files": "/x/", "record": "/x/y"},
	}
	for _, a := range slices.Concat(rows(on), containerRows(on)) {
		if attacks[a.name] == nil {
			t.Errorf("no attack %q", a.name)
		}
	}
}

func TestWritable(t *testing.T) {
	const maps = "400000-401000 r-xp 00000000 00:00 0 /x\nc000000000-c000400000 rw-p 00000000 00:00 0\n"
	if got, err := writable(maps); got != "c000000000" || err != nil {
		t.Errorf("writable = %q, %v", got, err)
	}
	if _, err := writable(""); err == nil {
		t.Error("no memory: no error")
	}
}
