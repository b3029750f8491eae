// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	r := Report{Class: "vm", MAC: "apparmor", Layers: []Layer{MAC, User, Seccomp}, Outcomes: []Outcome{
		{By: "qemu", Attack: "read", On: "/etc/shadow", Denied: true, Seen: "permission denied", Control: true, Layers: []Layer{MAC, User}},
		{By: "qemu", Attack: "keyctl", Denied: true, Control: true, Layers: []Layer{Seccomp}},
		{By: "qemu", Attack: "perf", Denied: true, Without: "operation not permitted"},
		{By: "qemu", Attack: "kexec", Denied: true, Without: "function not implemented"},
		{By: "virtiofsd", Attack: "tgkill", On: "a process of root", Control: true},
	}}
	r = r.settle()
	want := "attacks[apparmor]: 4 tried, 3 denied, 1 succeeded; controls: 3 of 4; layers: min 1 median 1"
	if r.Verdict != want {
		t.Errorf("Closing = %q, want %q", r.Verdict, want)
	}
	names := func(list []Outcome) (all []string) {
		for _, o := range list {
			all = append(all, o.Attack)
		}
		return all
	}
	for what, got := range map[string][]string{"tgkill": names(r.Succeeded()), "perf": names(r.Void()), "keyctl": names(r.Single())} {
		if diff := cmp.Diff([]string{what}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	var out strings.Builder
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	table := `BY         ATTACK  ON                 RESULT               MAC    USER   SECCOMP
qemu       read    /etc/shadow        denied               stops  stops
qemu       keyctl  -                  denied                             stops
qemu       perf    -                  denied, to root too
virtiofsd  tgkill  a process of root  SUCCEEDED
SUCCEEDED: tgkill by virtiofsd on a process of root
one layer alone: keyctl by qemu on -: [seccomp]
shows nothing here: perf by qemu on -: root without a layer: operation not permitted
not on this host: kexec by qemu on -
class: vm
` + want + "\n"
	if diff := cmp.Diff(table, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestClosingWithoutAttacks(t *testing.T) {
	const want = "attacks[none]: 0 tried, 0 denied, 0 succeeded; controls: 0 of 0; layers: min 0 median 0"
	if got := (Report{MAC: "none"}).Closing(); got != want {
		t.Errorf("Closing = %q, want %q", got, want)
	}
}

// TestReportOfPlainContainers: the class is in the closing line, and what it does not promise
// above.
func TestReportOfPlainContainers(t *testing.T) {
	r := Report{Class: "process", MAC: "selinux", NotAttacked: []string{"the kernel"}}.settle()
	var out strings.Builder
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	const want = `BY  ATTACK  ON  RESULT
not attacked: the kernel
class: process
attacks[process/selinux]: 0 tried, 0 denied, 0 succeeded; controls: 0 of 0; layers: min 0 median 0
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}
