// SPDX-License-Identifier: Apache-2.0

package virtiofsd

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestArgs(t *testing.T) {
	for _, tt := range []struct {
		kind      Kind
		openFiles uint64
		golden    string
	}{
		{KindC, 1 << 20, "c.args"},
		{KindC, 20000, "c-few.args"},
		{KindRust, 1 << 20, "rust.args"},
		{KindRust, 20000, "rust-few.args"},
	} {
		got := strings.Join(args(tt.kind, 3, 4, tt.openFiles), "\n") + "\n"
		golden := filepath.Join("testdata", tt.golden)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		help string
		want Kind
	}{
		{"usage: virtiofsd [options]\n    -o source=PATH             shared directory tree\n", KindC},
		{"Launch a virtiofsd backend.\n\nUsage: virtiofsd [OPTIONS]\n      --shared-dir <SHARED_DIR>\n", KindRust},
		{"usage: cat", KindUnknown},
		{"", KindUnknown},
	} {
		got, err := kindOf(test.help)
		if got != test.want || (err == nil) != (test.want != KindUnknown) {
			t.Errorf("kindOf(%q) = %q, %v, want %q", test.help, got, err, test.want)
		}
	}
}
