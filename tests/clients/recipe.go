// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"testing"

	"cloister/tests/testenv"
)

// Set names programs that are built together.
type Set string

// The sets that there are.
const (
	Containerd Set = "containerd" // containerd, ctr, containerd-shim-runc-v2
	Runc       Set = "runc"
	Dockerd    Set = "dockerd"
	Docker     Set = "docker"   // Docker's command line
	Suite      Set = "suite"    // containerd's client suite: client.test
	CRISuite   Set = "crisuite" // containerd's CRI suite: cri.test
	CNI        Set = "cni"      // the network plugins that containerd's CRI calls
	Moby       Set = "moby"     // Docker's integration suites: container.test, network.test, ...
	BuildKit   Set = "buildkit" // buildkitd and buildctl
	GVisor     Set = "gvisor"   // runsc, which the bench compares with where it is built
	DockerIO   Set = "dockerio" // dockerd and docker of the distribution, unpacked and not installed

	// SpecSuite is the validation of runtime-spec: a program for each case, runtimetest and the
	// root file system.
	SpecSuite Set = "specsuite"

	// EarlierContainerd is the release before Containerd, from which a node is upgraded.
	EarlierContainerd Set = "earlier-containerd"

	Kubernetes Set = "kubernetes" // the control plane, a node's programs and kubectl
	Etcd       Set = "etcd"
	CoreDNS    Set = "coredns"

	// MetricsServer serves what kubectl top asks for.
	MetricsServer Set = "metrics-server"
)

// recipe says how a set is made. Every field is part of its key.
type recipe struct {
	Module   string   `json:"module"` // path of the module
	Version  string   `json:"version"`
	Packages []string `json:"packages"` // below Module; empty: the module itself
	Tags     string   `json:"tags"`
	CGO      bool     `json:"cgo"`
	Test     string   `json:"test"` // the name of the one test binary to be made; empty: commands
	Form     int      `json:"form"` // counted up when the way of building changes

	Linker   string `json:"linker,omitempty"`   // -ldflags
	Compiler string `json:"compiler,omitempty"` // -gcflags
	// Versions names the files, before .mod and .sum, of the dependencies' versions that are taken
	// over; a test takes "go".
	Versions string `json:"versions,omitempty"`
	// Replace is a module@version that replaces a dependency's own version.
	Replace string `json:"replace,omitempty"`
	// Staging is the version under which the modules are published that Module has in folders of
	// its own; empty: the versions that it requires.
	Staging string `json:"staging,omitempty"`
	// Folder is the cache's folder, "clients" where it is empty. The other folders' sets are built
	// by name alone.
	Folder string `json:"folder,omitempty"`
	// Files of the module are put beside the programs.
	Files []string `json:"files,omitempty"`
	// Package is one of Debian's, in the place of a module: what it has in usr/bin and usr/sbin.
	Package string `json:"package,omitempty"`
	// Tests has the test binary of every package made, with its testdata beside it.
	Tests bool `json:"tests,omitempty"`
}

// The daemon, and the suites of the same version.
const (
	dockerd        = "github.com/moby/moby/v2"
	dockerdVersion = "v2.0.0-beta.24"
	dockerdTags    = "exclude_graphdriver_btrfs no_systemd"
)

func recipes() map[Set]recipe {
	return map[Set]recipe{
		Containerd: {
			Module: "github.com/containerd/containerd/v2", Version: "v2.4.2",
			Packages: []string{"cmd/containerd", "cmd/ctr", "cmd/containerd-shim-runc-v2"},
		},
		EarlierContainerd: {
			Module: "github.com/containerd/containerd/v2", Version: "v2.3.7",
			Packages: []string{"cmd/containerd", "cmd/ctr", "cmd/containerd-shim-runc-v2"}, Folder: "kubernetes",
		},
		Runc: {Module: "github.com/opencontainers/runc", Version: "v1.4.3", Tags: "seccomp", CGO: true},
		Suite: {
			Module: "github.com/containerd/containerd/v2", Version: "v2.4.2",
			Packages: []string{"integration/client"}, Test: "client.test",
		},
		CRISuite: {Module: "github.com/containerd/containerd/v2", Version: "v2.4.2", Packages: []string{"integration"}, Test: "cri.test"},
		CNI: {
			Module: "github.com/containernetworking/plugins", Version: "v1.9.1",
			Packages: []string{
				"plugins/main/bridge", "plugins/main/loopback", "plugins/main/ptp",
				"plugins/ipam/host-local", "plugins/meta/portmap", "plugins/meta/firewall", "plugins/meta/tuning",
			},
		},
		BuildKit: {
			Module: "github.com/moby/buildkit", Version: "v0.34.2", Packages: []string{"cmd/buildkitd", "cmd/buildctl"}, Versions: "go",
			Linker: "-s -w",
		},
		GVisor: {
			Module: "gvisor.dev/gvisor", Version: "v0.0.0-20260905035102-160fafc42237", Packages: []string{"runsc"},
		},
		// Without the linked version, the daemon is of version "dev", which speaks no dialect of
		// the client's.
		Dockerd: {
			Module: dockerd, Version: dockerdVersion, Packages: []string{"cmd/dockerd", "cmd/docker-proxy"},
			Tags: dockerdTags, Linker: "-X github.com/moby/moby/v2/dockerversion.Version=29.9.3-beta.24",
		},
		Moby: {
			Module: dockerd, Version: dockerdVersion, Tags: dockerdTags, Tests: true, Folder: "moby",
			Packages: []string{
				"integration/container", "integration/network", "integration/network/bridge", "integration/volume", "integration/system",
			},
		},
		// The command line has no go.mod: without a word the compiler takes it for old Go. The
		// proxy does not give the swarmkit that it names; the daemon's is one commit older.
		Docker: {
			Module: "github.com/docker/cli", Version: "v29.9.3+incompatible", Packages: []string{"cmd/docker"},
			Versions: "vendor", Compiler: "github.com/docker/cli/...=-lang=go1.26",
			Replace: "github.com/moby/swarmkit/v2@v2.1.3-0.20260828175525-ad0357aedfca",
		},
		// The programs refuse to work with others of version v0.0.0.
		Kubernetes: {
			Module: "k8s.io/kubernetes", Version: "v1.37.2", Staging: "v0.37.2", Versions: "go", Folder: "kubernetes",
			Packages: []string{
				"cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-scheduler", "cmd/kube-proxy", "cmd/kubelet", "cmd/kubectl",
			},
			Linker: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1" +
				" -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/component-base/version.gitTreeState=clean",
		},
		Etcd: {
			Module: "go.etcd.io/etcd/server/v3", Version: "v3.7.3", Packages: []string{""}, Versions: "go",
			Linker: "-s -w", Folder: "kubernetes",
		},
		CoreDNS: {
			Module: "github.com/coredns/coredns", Version: "v1.15.0", Packages: []string{""}, Versions: "go",
			Linker: "-s -w", Folder: "kubernetes",
		},
		MetricsServer: {
			Module: "sigs.k8s.io/metrics-server", Version: "v0.9.0", Packages: []string{"cmd/metrics-server"}, Versions: "go",
			Linker: "-s -w", Folder: "kubernetes",
		},
		SpecSuite: {
			Module: "github.com/opencontainers/runtime-tools", Version: "v0.9.1-0.20250523060157-0ea5ed0382a2",
			Packages: []string{"cmd/runtimetest", "validation/..."}, Files: []string{"rootfs-amd64.tar.gz"},
		},
		DockerIO: {Package: "docker.io"},
	}
}

// Dir is the folder in the cache that holds the set's programs once they are built.
func Dir(set Set) string {
	r := recipes()[set]
	if r.Package != "" {
		return packageDir(set, r.Package)
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // a struct of strings
	}
	sum := sha256.Sum256(text)
	return filepath.Join(testenv.Cache(), cmp.Or(r.Folder, "clients"), string(set)+"-"+r.Version+"-"+hex.EncodeToString(sum[:6]))
}

// Need needs the set's program and returns the folder it is in.
func Need(t testing.TB, set Set, program string) string {
	t.Helper()
	dir := Dir(set)
	testenv.NeedFile(t, testenv.Clients, []string{dir}, program)
	return dir
}
