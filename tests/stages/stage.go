// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Stage is one part of the tests, run as one process.
type Stage struct {
	Name  string
	About string // what it shows, in a phrase

	// Needs are the stages that have to pass first. One that did not pass keeps this one from
	// running.
	Needs []string
	// After are stages that make what some of its tests use. In a run that has them, this one waits
	// until they have ended, however they did. A run of this stage alone does without.
	After []string

	// Command is a program and its arguments. Tests are instead patterns of packages for go test,
	// and Flags more of its flags. Env is added to the environment. The pattern Rest stands for all
	// packages that no stage names.
	Command []string
	Tests   []string
	Flags   []string
	Env     []string

	Weight int // processors it keeps busy: 1, or 2 when it has to be alone
	// Background stages run beside the others, one at a time and with less of the processors, in
	// the time that guests leave. They have no weight.
	Background bool

	Caches []string      // folders of the cache that hold what is slow to build; missing ones add Cold
	Warm   time.Duration // what it took in the last runs, on two processors
	Cold   time.Duration
	Budget time.Duration // a warm run that takes longer says so, and does not fail
	Limit  time.Duration // the stage is ended then, and has failed

	// Elastic is the least time of a stage that fits its work into the time it is given
	// (the environment variable CLOISTER_STAGE_SECONDS); 0 for all others.
	Elastic time.Duration
	// Optional stages may be left out on a cold machine.
	Optional bool
	// ByName is why a run of all stages leaves this one out; empty: it does not.
	ByName string
	// Turns names a group of optional stages of which a run of all takes one: the one that is due
	// first.
	Turns string
}

// Rest stands in Tests for all packages that no other stage names, and no folder in apart holds.
const Rest = "rest"

// engineTurns are the tests of the OCI command line that are not in each run.
const engineTurns = "TestDocker|TestRuncShim|TestPodmanCNI|TestBuildKit|TestKilledAtEveryStep|TestAtOnce"

// scenariosAlone leaves out of the labs what are stages of their own, and what is run by hand.
var scenariosAlone = []string{"-skip", "^(TestKubelet|TestPodman|TestBenchTemplate)$"}

// fromTemplates has sandboxes start as by default, from a template: those of one size share one,
// which the first stage builds. testenv lists the tests whose sandboxes start cold there.
var fromTemplates = []string{"CLOISTER_TEST_TEMPLATES=on"}

// apart are packages whose tests are run by hand.
var apart = []string{"./tests/bench", "./tests/moby"}

// All lists the stages in the order in which they start when time is not short. Two guests run
// beside each other; a stage that measures its own time, or has machines in a machine, is alone.
func All() []Stage {
	const s, m = time.Second, time.Minute
	guest := []string{"build", "guest", "clients"}
	return slices.Concat([]Stage{
		{
			Name: "arch", About: "rules about the tree", Tests: []string{"./tests/arch"}, Weight: 1, Warm: 10 * s,
			Cold: 30 * s, Budget: 20 * s, Limit: 3 * m,
		},
		{
			Name: "build", About: "the programs", Command: []string{".ci/build"}, Weight: 1, Warm: 10 * s,
			Cold: 60 * s, Budget: 60 * s, Limit: 15 * m,
		},
		{
			Name: "guest", About: "the guest's kernel and initial image", Needs: []string{"build"}, Command: []string{".ci/guest"},
			Weight: 1, Caches: []string{"kernel"}, Warm: 5 * s, Cold: 11 * m, Budget: 60 * s, Limit: 45 * m,
		},
		{
			Name: "clients", About: "foreign programs", Command: []string{"go", "run", "./tests/clients/build"},
			Weight: 1, Caches: []string{"clients"}, Warm: 3 * s, Cold: 7 * m, Budget: 10 * s, Limit: 35 * m,
		},
		{
			Name: "unit", About: "unit tests with the race detector", Tests: []string{Rest},
			Flags: []string{"-race"}, Env: []string{"CGO_ENABLED=1"},
			After: []string{"clients"}, Background: true, Warm: 280 * s, Cold: 3 * m, Budget: 10 * m, Limit: 40 * m,
		},
		{
			Name: "machine", About: "the vmm room with real machines", Needs: guest,
			Tests: []string{"./tests/machine/..."}, Weight: 1, Warm: 100 * s, Budget: 5 * m, Limit: 10 * m,
		},
		{
			Name: "integration", About: "the Task API by containerd and ctr", Needs: guest,
			Tests: []string{"./tests/integration/..."}, Env: fromTemplates, Weight: 1, Warm: 510 * s, Budget: 12 * m, Limit: 24 * m,
		},
		{
			// Its containers have the names, and so the cgroups, of those of the stage integration.
			Name: "process", About: "the Task API with plain containers", Needs: guest,
			Tests: []string{"./tests/integration/..."},
			Env:   []string{"CLOISTER_TEST_CLASS=process"}, Weight: 2, Warm: 70 * s, Budget: 3 * m, Limit: 8 * m,
		},
		{
			Name: "fuzz", About: "each fuzz test for some seconds, least lately run first",
			Command: []string{"go", "run", "./tests/stages/fuzz"},
			Weight:  1, Warm: 414 * s, Cold: 60 * s, Budget: 7 * m, Limit: 14 * m, Elastic: 4 * m,
		},
		{
			Name: "files", About: "files in a guest beside runc", Needs: guest,
			Tests: []string{"./tests/files/..."}, Env: fromTemplates, Weight: 1, Warm: 300 * s, Budget: 7 * m, Limit: 15 * m,
		},
		{
			Name: "cri", About: "pods, containerd's CRI suite, networks", Needs: guest,
			Tests: []string{"./tests/cri/...", "./tests/network/..."}, Env: fromTemplates, Flags: []string{"-p", "1"},
			Weight: 1, Warm: 456 * s, Budget: 10 * m, Limit: 20 * m, Optional: true,
		},
		{
			Name: "crash", About: "kills at every step, hostile guests, load", Needs: guest,
			Tests: []string{"./tests/crash/..."}, Env: fromTemplates,
			Weight: 1, Warm: 660 * s, Budget: 14 * m, Limit: 25 * m, Optional: true,
		},
		{
			Name: "docker", About: "Docker's daemon and command line, nerdctl's contract", Needs: guest,
			Tests: []string{"./tests/docker/...", "./tests/nerdctl/..."}, Env: fromTemplates, Flags: []string{"-p", "1"},
			Weight: 1, Warm: 167 * s, Budget: 6 * m, Limit: 12 * m, Optional: true,
		},
	}, engines(guest), []Stage{
		{
			Name: "demo", About: "make demo", Needs: []string{"build"},
			Command: []string{"make", "--no-print-directory", "demo"}, Weight: 1, Warm: 19 * s, Budget: 2 * m, Limit: 4 * m,
		},
		{
			Name: "lint", About: "golangci-lint, dead code, values on another system, Prometheus' parser", Command: []string{".ci/lint"},
			Background: true, Caches: []string{"tools"}, Warm: 130 * s, Cold: 4 * m, Budget: 5 * m, Limit: 30 * m,
		},
		// It gives a container a second or two to be there again, by its own clock.
		{
			Name: "suite", About: "containerd's client suite", Needs: guest,
			Tests: []string{"./tests/clients/..."}, Weight: 2, Warm: 145 * s, Budget: 10 * m, Limit: 20 * m, Optional: true,
		},
	}, machines(guest))
}

// engines are the stages of programs that call the OCI command line, and of users' programs.
func engines(guest []string) []Stage {
	const s, m = time.Second, time.Minute
	return []Stage{
		{
			Name: "engines", About: "the OCI command line, by conmon, Podman, buildah and as CRI-O calls it", Needs: guest,
			Tests:  []string{"./tests/engines/..."},
			Flags:  []string{"-skip", "^(" + engineTurns + "|TestPodmanProcess|TestSpecSuite)$"},
			Weight: 1, Warm: 240 * s, Budget: 5 * m, Limit: 9 * m, Optional: true,
		},
		{
			Name: "engines-docker", About: "Docker 20.10, BuildKit, runc's shim, Podman's CNI, and kills at every step", Needs: guest,
			Tests: []string{"./tests/engines/..."}, Flags: []string{"-run", "^(" + engineTurns + ")$"},
			Weight: 1, Warm: 240 * s, Budget: 5 * m, Limit: 10 * m, Optional: true, Turns: "engines",
		},
		{
			Name: "engines-process", About: "the same programs with plain containers, and kills at every step", Needs: guest,
			Tests: []string{"./tests/engines/..."}, Env: []string{"CLOISTER_TEST_CLASS=process"},
			Flags: []string{
				"-run",
				"^(TestPodmanProcess|TestPodmanCNI|TestBuildKit|TestDocker|TestCRIO|TestRuncShim|TestKilledAtEveryStep|TestAtOnce|" +
					"TestOutputBeforeStopped)$",
			},
			Weight: 1, Warm: 180 * s, Budget: 4 * m, Limit: 8 * m, Optional: true, Turns: "engines",
		},
		// The suites give containers times of their own.
		{
			Name: "suites-process", About: "containerd's suites with plain containers", Needs: []string{"build", "clients"},
			Tests: []string{"./tests/clients/...", "./tests/cri/..."}, Env: []string{"CLOISTER_TEST_CLASS=process"},
			// One after the other: the client suite gives a container a second or two to be there
			// again.
			Flags:  []string{"-p", "1", "-run", "^(TestClientSuiteProcess|TestSuiteProcess)$"},
			Weight: 2, Warm: 240 * s, Budget: 5 * m, Limit: 12 * m, Optional: true,
		},
		{
			Name: "suite-spec", About: "runtime-spec's validation suite with plain containers, beside runc", Needs: guest,
			Tests: []string{"./tests/engines/..."},
			Env:   []string{"CLOISTER_TEST_CLASS=process"}, Flags: []string{"-run", "^TestSpecSuite$"},
			Weight: 2, Warm: 5 * m, Budget: 8 * m, Limit: 20 * m, Optional: true,
			ByName: "its cases wait for most of their time: make test-suite-spec",
		},
		{
			Name: "suite-spec-vm", About: "runtime-spec's validation suite with guests, beside runc", Needs: guest,
			Tests:  []string{"./tests/engines/..."},
			Flags:  []string{"-run", "^TestSpecSuite$"},
			Weight: 2, Warm: 20 * m, Budget: 30 * m, Limit: 60 * m, Optional: true,
			ByName: "starts a guest or several for each of its 58 cases: make test-suite-spec-vm",
		},
		// Two programs at a time, each in a guest.
		{
			Name: "apps", About: "real programs of Debian beside runc", Needs: guest, Tests: []string{"./tests/apps/..."},
			Weight: 2, Caches: []string{"apps"}, Warm: 260 * s, Cold: 5 * m, Budget: 6 * m, Limit: 20 * m, Optional: true,
			Turns: "large",
		},
	}
}

// machines are the stages that bring a machine or a cluster of their own.
func machines(guest []string) []Stage {
	const s, m = time.Second, time.Minute
	return []Stage{
		// Its machines, which have machines in them, have two processors.
		{
			Name: "packages", About: "the packages on fresh Debian 12 and 13 with systemd", Needs: guest,
			Tests: []string{"./tests/packages/..."}, Weight: 2, Caches: []string{"packages"},
			Warm: 10 * m, Cold: 15 * m, Budget: 15 * m, Limit: 45 * m, Optional: true,
			ByName: "takes longer than a run of all has room for: make test-packages",
		},
		// Its machine, which has machines in it, has two processors.
		{
			Name: "lab", About: "an enforcing host in a throwaway machine", Needs: guest, Tests: []string{"./tests/lab/..."},
			Flags: scenariosAlone, Weight: 2, Caches: []string{"lab"}, Warm: 700 * s, Cold: 5 * m, Budget: 15 * m, Limit: 29 * m,
			Optional: true,
		},
		{
			Name: "lab-apparmor", About: "a host with AppArmor in a throwaway machine", Needs: guest, Tests: []string{"./tests/lab/..."},
			Env: []string{"MAC=apparmor"}, Flags: scenariosAlone,
			Weight: 2, Caches: []string{"lab"}, Warm: 160 * s, Cold: 3 * m, Budget: 5 * m, Limit: 20 * m,
			Optional: true,
		},
		{
			Name: "lab-fedora", About: "the same host with Fedora's conditions", Needs: guest,
			Tests: []string{"./tests/lab/..."}, Env: []string{"POLICY=fedora"}, Flags: scenariosAlone,
			Weight: 2, Caches: []string{"lab"}, Warm: 620 * s, Cold: 5 * m, Budget: 15 * m, Limit: 26 * m,
			Optional: true, Turns: "large",
		},
		{
			Name: "lab-none", About: "the same host without mandatory access control", Needs: guest, Tests: []string{"./tests/lab/..."},
			Env: []string{"MAC=none"}, Flags: scenariosAlone,
			Weight: 2, Caches: []string{"lab"}, Warm: 165 * s, Cold: 3 * m, Budget: 5 * m, Limit: 20 * m,
			Optional: true, Turns: "large",
		},
		{
			Name: "k8s-programs", About: "Kubernetes, etcd, CoreDNS, metrics-server and the containerd before",
			Command: []string{
				"go", "run", "./tests/clients/build", "kubernetes", "etcd", "coredns", "metrics-server", "earlier-containerd",
			},
			Weight: 2, Caches: []string{"kubernetes"}, Warm: 3 * s, Cold: 21 * m, Budget: 10 * s, Limit: 50 * m, Optional: true,
		},
		{
			Name: "lab-kubelet", About: "Kubernetes' kubelet on that enforcing host",
			Needs: []string{"build", "guest", "clients", "k8s-programs"},
			Tests: []string{"./tests/lab/..."}, Flags: []string{"-run", "^TestKubelet$"},
			Weight: 2, Caches: []string{"lab"}, Warm: 180 * s, Cold: 5 * m, Budget: 6 * m, Limit: 20 * m,
			Optional: true, Turns: "large",
		},
		{
			Name: "lab-podman", About: "labels that Podman asks for on that enforcing host", Needs: guest,
			Tests: []string{"./tests/lab/..."}, Flags: []string{"-run", "^TestPodman$"},
			Weight: 2, Caches: []string{"lab"}, Warm: 150 * s, Cold: 5 * m, Budget: 6 * m, Limit: 20 * m,
			Optional: true, Turns: "large",
		},
		// Its pods are two at a time, beside the control plane.
		{
			Name: "k8s", About: "a cluster of one node, by kubectl", Needs: []string{"build", "guest", "clients", "k8s-programs"},
			Tests: []string{"./tests/kubernetes/..."}, Flags: []string{"-parallel", "2"}, Weight: 2,
			Warm: 330 * s, Budget: 8 * m, Limit: 16 * m, Optional: true, Turns: "large",
		},
	}
}

// Select returns the stages of those names in the order of all, with those that they need. The
// only name "all" selects all.
func Select(all []Stage, names ...string) ([]Stage, error) {
	if len(names) == 1 && names[0] == "all" {
		return slices.DeleteFunc(slices.Clone(all), func(s Stage) bool { return s.ByName != "" }), nil
	}
	wanted := map[string]bool{}
	var want func(name, by string) error
	want = func(name, by string) error {
		i := slices.IndexFunc(all, func(s Stage) bool { return s.Name == name })
		if i < 0 {
			return fmt.Errorf("no stage %q%s: there are all, %s", name, by, strings.Join(Names(all), ", "))
		}
		wanted[name] = true
		for _, need := range all[i].Needs {
			if err := want(need, ", needed by "+name); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range names {
		if err := want(name, ""); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(s Stage) bool { return !wanted[s.Name] }), nil
}

// Left says of each stage that a run of all leaves out why it does: it runs by name alone, takes
// turns with another of its group, which comes earlier in turn (see History.Turn), or only stages
// that are left out need it.
func Left(all []Stage, turn []string) map[string]string {
	due := map[string]Stage{}
	rank := func(s Stage) int { return slices.Index(turn, s.Name) }
	for _, s := range all {
		first, some := due[s.Turns]
		if s.Turns != "" && s.ByName == "" && (!some || rank(s) < rank(first)) {
			due[s.Turns] = s
		}
	}
	left := map[string]string{}
	for _, s := range all {
		switch {
		case s.ByName != "":
			left[s.Name] = s.ByName
		case s.Turns != "" && due[s.Turns].Name != s.Name:
			left[s.Name] = "takes turns with " + due[s.Turns].Name +
				", which was due first (changed since it last passed, then longest ago): make test-" + s.Name
		}
	}
	for _, s := range all {
		need := slices.DeleteFunc(slices.Clone(all), func(other Stage) bool { return !slices.Contains(other.Needs, s.Name) })
		runs := func(other Stage) bool { return left[other.Name] == "" }
		if len(need) > 0 && left[s.Name] == "" && !slices.ContainsFunc(need, runs) {
			left[s.Name] = "only " + strings.Join(Names(need), ", ") + " needs it"
		}
	}
	return left
}

// Whole tells whether chosen is a run of all: only such a run is recorded.
func Whole(all, chosen []Stage) bool {
	whole, err := Select(all, "all")
	return err == nil && slices.Equal(Names(whole), Names(chosen))
}

// Names lists the stages' names.
func Names(list []Stage) []string {
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

// Packages resolves the patterns of a stage's tests among all packages of the module: Rest becomes
// those that no stage of all names. Other patterns stay as they are.
func Packages(all []Stage, s Stage, module string, packages []string) []string {
	if !slices.Contains(s.Tests, Rest) {
		return s.Tests
	}
	taken := slices.Clone(apart)
	for _, other := range all {
		taken = append(taken, other.Tests...)
	}
	return slices.DeleteFunc(slices.Clone(packages), func(name string) bool {
		return slices.ContainsFunc(taken, func(pattern string) bool { return covers(module, pattern, name) })
	})
}

func covers(module, pattern, name string) bool {
	pattern = module + strings.TrimPrefix(pattern, ".")
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == folder || strings.HasPrefix(name, folder+"/")
	}
	return name == pattern
}
