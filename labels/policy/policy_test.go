// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/labels"
	"cloister/tests/testenv"
)

func TestBuild(t *testing.T) {
	for _, tool := range []string{"checkmodule", "semodule_package"} {
		testenv.NeedTool(t, tool)
	}
	built, err := Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pp, err := converter()
	if err != nil {
		testenv.Need(t, "pp", err.Error())
	}
	text, err := run(t.Context(), pp, built.Package)
	if err != nil {
		t.Fatal(err)
	}
	_, constrained, _ := strings.Cut(text, "(typeattributeset mcs_constrained_type (")
	constrained, _, _ = strings.Cut(constrained, ")")
	for _, name := range []string{QEMUType, QEMUTCGType, VirtiofsdType, ContainerType} {
		if !strings.Contains(constrained, name+" ") {
			t.Errorf("%s is not constrained by categories", name)
		}
	}
	for _, removed := range []string{
		"cloister_image_t (file (open", "(allow cloister_machine_domain etc_t (file", "(allow cloister_machine_domain sysfs_t", "setsched",
		"cloister_rootfs_t (file (execute", "cloister_container_t initrc_t (unix_stream_socket", "net_raw",
	} {
		for line := range strings.Lines(text) {
			guest := strings.Contains(line, "(allow cloister_machine_domain") ||
				strings.Contains(line, "(allow cloister_guest_domain") || strings.Contains(line, "(allow cloister_container_t")
			// A plain container has what engines give by default: setsched, net_raw.
			if strings.Contains(line, removed) && guest && !strings.Contains(line, "(allow cloister_container_t self (") {
				t.Errorf("rule %s: guests do without %q", strings.TrimSpace(line), removed)
			}
		}
	}
	if strings.Contains(text, "virt_domain") {
		t.Error("a type has virt_domain, which brings rights that no guest needs")
	}
}

func TestParseState(t *testing.T) {
	const own, constraints, other = "400 cloister        pp          sha256:3d38 \n",
		"400 cloister_mcs cil sha256:11\n", "100 accountsd       pp          sha256:cac9 \n"
	for _, test := range []struct {
		list string
		want State
	}{
		{own + other + constraints, State{
			Installed: true,
			Checksums: map[string]string{Name: "sha256:3d38", ConstraintsName: "sha256:11"},
		}},
		{own + other, State{Partial: true, Checksums: map[string]string{Name: "sha256:3d38"}}},
		{"100 cloisters pp sha256:00\n", State{}},
	} {
		if diff := cmp.Diff(test.want, parseState(test.list)); diff != "" {
			t.Errorf("parseState(%q) (-want +got):\n%s", test.list, diff)
		}
	}
}

func TestArgs(t *testing.T) {
	for _, test := range []struct {
		name string
		in   Store
		want []string
	}{
		{"this host", Store{}, []string{"-i", "x"}},
		{"audited", Store{Audit: true}, []string{"-D", "-i", "x"}},
		{"a root", Store{Root: "/r"}, []string{"-n", "-p", "/r", "-s", "default", "-i", "x"}},
		{"named", Store{Policy: "mls"}, []string{"-s", "mls", "-i", "x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.in.args("-i", "x")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// kernelFunc is a Kernel of one function.
type kernelFunc func(source, target labels.Label, class, permission string) Answer

func (f kernelFunc) Allowed(source, target, class, permission string) (Answer, error) {
	from, err := labels.Parse(source)
	if err != nil {
		return Answer{}, err
	}
	to, err := labels.Parse(target)
	if err != nil {
		return Answer{}, err
	}
	return f(from, to, class, permission), nil
}

// keeps answers as a policy does that is as it should be.
func keeps(source, target labels.Label, class, _ string) Answer {
	if class == "process" || class == "chr_file" || !source.Range.High.Dominates(target.Range.High) {
		return Answer{}
	}
	return Answer{Allowed: source.Type == VirtiofsdType && target.Type == RootfsType || source.Type == QEMUType && target.Type == ImageType}
}

func TestSelfTest(t *testing.T) {
	for _, test := range []struct {
		name    string
		kernel  kernelFunc
		wantErr error
		names   string
	}{
		{"as it should be", keeps, nil, ""},
		{"pairs constrain nothing", func(s, o labels.Label, class, p string) Answer {
			return keeps(s, o.WithLevel(s.Range.High), class, p)
		}, ErrPolicy, "write append } on system_u:object_r:cloister_image_t:s0:c101,c102:file"},
		{"nothing is allowed", func(labels.Label, labels.Label, string, string) Answer { return Answer{} }, ErrPolicy, "want true"},
		{"permissive domain", func(s, o labels.Label, class, p string) Answer {
			return Answer{Allowed: keeps(s, o, class, p).Allowed, Permissive: true}
		}, ErrPolicy, "is permissive"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := SelfTest(test.kernel, Of(labels.Own(true)))
			if !errors.Is(err, test.wantErr) {
				t.Fatalf("SelfTest = %v, want %v", err, test.wantErr)
			}
			if err != nil && !strings.Contains(err.Error(), test.names) {
				t.Errorf("SelfTest = %v, want it to name %q", err, test.names)
			}
		})
	}
}

func TestUnconstrained(t *testing.T) {
	sockets := kernelFunc(func(s, o labels.Label, class, p string) Answer {
		return Answer{Allowed: class == "unix_stream_socket" && p != "read" || keeps(s, o, class, p).Allowed}
	})
	got, err := Unconstrained(sockets, Of(labels.Own(true)))
	if diff := cmp.Diff([]string{"unix_stream_socket { connectto write }"}, got); err != nil || diff != "" {
		t.Errorf("Unconstrained (-want +got), %v:\n%s", err, diff)
	}
	if got, err := Unconstrained(kernelFunc(keeps), Of(labels.Own(true))); err != nil || len(got) != 0 {
		t.Errorf("Unconstrained of a policy as it should be = %v, %v, want none", got, err)
	}
}

func TestParseAnswer(t *testing.T) {
	for _, test := range []struct {
		text string
		bit  uint
		want Answer
		ok   bool
	}{
		{"2 ffffffff 0 ffffffff 7 0", 1, Answer{Allowed: true}, true},
		{"2 ffffffff 0 ffffffff 7 1", 0, Answer{Permissive: true}, true},
		{"2 ffffffff 0", 1, Answer{}, false},
		{"x ffffffff 0 ffffffff 7 0", 1, Answer{}, false},
	} {
		got, err := parseAnswer(test.text, test.bit)
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("parseAnswer(%q, %d) = %+v, %v, want %+v", test.text, test.bit, got, err, test.want)
		}
	}
}
