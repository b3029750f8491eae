// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/tests/hostmachine"
	"cloister/tests/testenv"
)

// margin is kept of the test's time to say what a machine that hangs has said.
const margin = 30 * time.Second

// packing makes the packages twice and compares them, once for all tests.
var packing = sync.OnceValue(func() error {
	return tool(context.Background(), filepath.Join("..", ".."), ".ci/packages", "--twice")
})

// pack puts the packages of this commit into build/packages, and returns the tree.
func pack(t *testing.T) string {
	t.Helper()
	if err := packing(); err != nil {
		t.Fatal(err)
	}
	return testenv.Tree(t)
}

// TestPackages lives the whole life of the packages on each Debian, in a machine of its own. A
// line of what the machine says is a claim: a test of its own.
func TestPackages(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedTool(t, "debootstrap")
	qemu := testenv.NeedQEMU(t)
	testenv.NeedBusybox(t)
	testenv.NeedShim(t)
	testenv.NeedGuest(t)
	tree := pack(t)
	old, err := makeEarlier(t.Context(), tree, testenv.Cache())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := makePayload(t.Context(), t.TempDir(), tree, old)
	if err != nil {
		t.Fatal(err)
	}
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			made, err := makeRoot(t.Context(), testenv.Cache(), debian(suite))
			if err != nil {
				t.Fatalf("the root: %v", err)
			}
			begin := time.Now()
			said := live(t, qemu, made, payload)
			t.Logf("%s: %.0f s", suite, time.Since(begin).Seconds())
			judge(t, said)
		})
	}
}

// live runs the machine until it switches itself off, and gives what the unit said.
func live(t *testing.T, qemu string, r root, payload string) string {
	t.Helper()
	ctx := t.Context()
	if end, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-margin))
		defer cancel()
	}
	work := t.TempDir()
	console, said := filepath.Join(work, "console"), filepath.Join(work, "said")
	line := append([]string{"console=ttyS0", "panic=-1", "quiet", "net.ifnames=0"}, hostmachine.Parameters(ctx)...)
	args := append(hostmachine.Args(3072),
		"-kernel", r.kernel(), "-initrd", r.initrd(), "-append", strings.Join(line, " "),
		"-drive", "file="+r.image()+",format=raw,if=virtio,snapshot=on",
		"-drive", "file="+payload+",format=raw,if=virtio,readonly=on",
		"-serial", "file:"+console, "-serial", "file:"+said,
	)
	out, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
	text, _ := os.ReadFile(said)
	kernel, _ := os.ReadFile(console)
	// The life has one loss of power. A kernel that panics starts the machine anew as well, and the
	// life's second half once more.
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the machine's console:\n%s", kernel)
		}
	})
	if err != nil {
		t.Fatalf("the machine did not switch itself off: %v\n%s\nit said\n%s", err, out, text)
	}
	return strings.ReplaceAll(string(text), "\r", "")
}

// judge makes each claim a test. The last line tells that the life came to its end.
func judge(t *testing.T, said string) {
	t.Helper()
	claims := strings.Split(said, "\nclaim ")
	for _, c := range claims[1:] {
		name, rest, _ := strings.Cut(c, "\n")
		t.Run(name, func(t *testing.T) {
			if !strings.Contains("\n"+rest+"\n", "\nholds\n") {
				t.Errorf("it does not hold:\n%s", rest)
			}
		})
	}
	if again := strings.Count(said, "\nclaim a guest that never runs is kept again\n"); again > 1 {
		t.Errorf("the machine has started %d times more than it was told to", again-1)
	}
	if len(claims) < 10 || !strings.Contains(said, "\nthe end\n") {
		t.Errorf("the lifecycle did not finish; it said\n%s", said)
	}
}
