// SPDX-License-Identifier: Apache-2.0

package files

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
)

// TestMoreFilesThanDescriptors has a guest make and read more files than the host lets its file
// server have open: each one that a guest's kernel remembers is a descriptor there.
func TestMoreFilesThanDescriptors(t *testing.T) {
	const limit, files = 2048, 3000
	g := newGround(t, host.Options{})
	for pid, line := range g.Place.Processes(t) {
		if strings.Contains(line, "containerd --config") && !strings.HasPrefix(line, "nsenter") {
			g.Place.Run(t, "prlimit", "--pid", strconv.Itoa(pid), "--nofile="+strconv.Itoa(limit))
		}
	}
	g.start(t, "many", bed.Cloister, "--user=0", bind(g.folder(t, "many"), "/v", "rbind:rw"))
	server := g.Marked(t, "many", "virtiofsd")
	if got := g.Place.Run(t, "prlimit", "--pid", strconv.Itoa(server), "--nofile", "--noheadings",
		"--output=HARD"); strings.TrimSpace(got) != strconv.Itoa(limit) {
		t.Fatalf("the file server may have %s files open, want %d", strings.TrimSpace(got), limit)
	}
	// One by one: what opens thousands in a tenth of a second is faster than the guest lets go.
	script := strings.ReplaceAll("i=0; while [ $i -lt N ]; do echo $i >/v/$i || exit; i=$((i+1)); done; i=0; while [ $i -lt "+
		"N ]; do read x </v/$i || exit; [ $x = $i ] || exit; i=$((i+1)); done; echo $i", "N", strconv.Itoa(files))
	if got, want := g.sh(t, "many", script), strconv.Itoa(files)+"\n"; got != want {
		t.Errorf("%d files with %d descriptors: %q, want %q", files, limit, got, want)
	}
	// Listed as fast as can be, by programs of which some do not tell of an error.
	got := g.sh(t, "many",
		"for i in 1 2 3; do ls /v | wc -l; ls -l /v | grep -vc total; find /v -type f | wc -l; probe names /v | wc -l; done "+
			"2>&1 | sort | uniq -c")
	if want := fmt.Sprintf("     12 %d\n", files); got != want {
		t.Errorf("listings of %d files with %d descriptors: %q, want %q", files, limit, got, want)
	}
}
