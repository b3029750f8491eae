// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// specDifferences lists the cases in which runc passes what cloister-oci does not: class, case,
// reason.
const specDifferences = "specsuite.tsv"

// sometimes begins the reason of a case that differs on a slow host alone.
const sometimes = "sometimes: "

// specLogs has what each case said.
const specLogs = "build/log/specsuite"

// TestSpecSuite runs the validation suite of runtime-spec with runc and with cloister-oci, each
// case in turn. What runc passes has to pass here too, unless the list has the case.
func TestSpecSuite(t *testing.T) {
	dir := clients.Need(t, clients.SpecSuite, "runtimetest")
	runc := filepath.Join(clients.Need(t, clients.Runc, "runc"), "runc")
	b := newBed(t)
	class := cmp.Or(b.class, "vm")
	// The same runc makes the plain containers.
	config := filepath.Join(b.Dir, "config.d", "runc.toml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(config), 0o755),
		os.WriteFile(config, fmt.Appendf(nil, "[process]\nruntime = %q\n", runc), 0o600)); err != nil {
		t.Fatal(err)
	}
	// In one case runc works in the mount namespace that it is called in, and makes its mounts
	// private.
	peer := specRun{place: host.New(t), dir: dir, runtime: runc, env: b.env, log: "runc"}
	here := specRun{place: b.Place, dir: dir, runtime: b.program, env: b.env, log: class}
	listed := specListed(t, class)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	passed, ours, all := 0, 0, 0
	for _, e := range entries {
		name := e.Name()
		if name == "runtimetest" || strings.HasSuffix(name, ".tar.gz") {
			continue // not a case
		}
		all++
		t.Run(name, func(t *testing.T) {
			want, got := peer.run(t, name), here.run(t, name)
			if want.ended {
				passed++
			}
			if got.ended {
				ours++
			}
			reason, known := listed[name]
			less := want.beyond(got)
			switch {
			case known && len(less) == 0 && !strings.HasPrefix(reason, sometimes):
				t.Errorf("%s has this case (%s), and it does not differ from runc", specDifferences, reason)
			case !known && len(less) > 0:
				t.Errorf("runc passes this, and cloister-oci does not: %q\nwhat the case said is in %s", less, specLogs)
			}
		})
	}
	fmt.Printf("runtime-spec, class %s: of %d cases %d passed, %d with runc\n", class, all, ours, passed)
}

// TestSpecDifferencesHaveReasons looks at the list alone.
func TestSpecDifferencesHaveReasons(t *testing.T) {
	for _, class := range []string{"vm", "process"} {
		for name, reason := range specListed(t, class) {
			if reason == "" {
				t.Errorf("%s: %s %s has no reason", specDifferences, class, name)
			}
		}
	}
}

// specListed gives the reasons of the list by case.
func specListed(t *testing.T, class string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(specDifferences)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		switch {
		case strings.HasPrefix(line, "#"):
		case len(fields) != 3:
			t.Fatalf("%s: %q has %d fields, want 3", specDifferences, line, len(fields))
		case fields[0] == class:
			found[fields[1]] = fields[2]
		}
	}
	return found
}

// specResult is what one case said of a runtime.
type specResult struct {
	ended  bool           // successfully, and no assertion failed
	passed map[string]int // how often each assertion did
}

// passedLine is an assertion that passed and failedLine one that failed, in the Test Anything
// Protocol.
var (
	passedLine = regexp.MustCompile(`(?m)^\s*ok \d+ - (.*)$`)
	failedLine = regexp.MustCompile(`(?m)^\s*not ok\b`)
)

func readSpecResult(out []byte, err error) specResult {
	r := specResult{passed: map[string]int{}}
	for _, m := range passedLine.FindAllSubmatch(out, -1) {
		r.passed[string(m[1])]++
	}
	r.ended = err == nil && len(r.passed) > 0 && !failedLine.Match(out)
	return r
}

// beyond lists what passed here and not, or less often, with another runtime.
func (r specResult) beyond(other specResult) []string {
	var less []string
	for _, name := range slices.Sorted(maps.Keys(r.passed)) {
		if other.passed[name] < r.passed[name] {
			less = append(less, name)
		}
	}
	if len(less) == 0 && r.ended && !other.ended {
		return []string{"the whole case"}
	}
	return less
}

// specRun runs cases with one runtime in one place.
type specRun struct {
	place             *host.Place
	env               []string
	dir, runtime, log string
}

// run runs one case, with a folder of its own for its bundle.
func (r specRun) run(t *testing.T, name string) specResult {
	t.Helper()
	scratch := filepath.Join(r.place.Dir, "spec")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := r.place.Command(ctx, "sh", "-c", `cd "$1" && exec "./$2"`, "case", r.dir, name)
	cmd.Env = append(slices.Clone(r.env), "RUNTIME="+r.runtime, "TMPDIR="+scratch)
	out, err := cmd.CombinedOutput()
	logs := filepath.Join(testenv.Tree(t), specLogs)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(logs, name+"-"+r.log), fmt.Appendf(out, "%v\n", err), 0o600); err != nil {
		t.Fatal(err)
	}
	// Many cases do not delete their container, and none the cgroups above it.
	const tidy = `for id in $("$1" list --quiet); do "$1" delete --force "$id" || exit 1; done
for top in /sys/fs/cgroup /sys/fs/cgroup/*; do rmdir $top/testdir/cgrouptest $top/testdir 2>/dev/null || true; done`
	cmd = r.place.Command(ctx, "sh", "-c", tidy, "sh", r.runtime)
	cmd.Env = r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("delete what %s has left: %v\n%s", name, err, out)
	}
	if err := os.RemoveAll(scratch); err != nil {
		t.Error(err)
	}
	return readSpecResult(out, err)
}
