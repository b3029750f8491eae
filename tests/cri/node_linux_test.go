// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

// installed is a node that cloister-node works on: a containerd that knows no cloister, folders of
// its own, and an API server that takes labels.
type installed struct {
	*host.Containerd
	labels chan string
	server string
}

// restart ends containerd and waits for it, as systemctl restart does; Keep starts it again.
const restart = `for dir in /proc/[0-9]*; do
	read -r -d '' program 2>/dev/null <$dir/cmdline || continue
	[ "$program" = %q ] || continue
	kill "${dir#/proc/}"
	while [ -d "$dir" ]; do sleep 0.1; done
done
`

func newInstalled(t *testing.T) *installed {
	t.Helper()
	program := testenv.NeedSandbox(t)
	place := host.New(t)
	place.Overlay(t, "/etc", "/opt", "/var/lib", "/usr/local")
	place.Run(t, "rm", "-rf", "/var/lib/cloister", "/etc/cloister") // the host's own, as the place sees it
	n := &installed{labels: make(chan string, 100)}                 // more than the installer sends: its server never waits
	containerd := clients.Need(t, clients.Containerd, "containerd")
	n.Containerd = place.StartContainerd(t, host.Options{Version: host.Current, CRI: true, Env: []string{
		"PATH=" + containerd + ":" + clients.Need(t, clients.Runc, "runc") + ":/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"CLOISTER_CONFIG=",
	}})
	n.Keep(t)
	n.write(t, "restart.sh", fmt.Sprintf(restart, filepath.Join(containerd, "containerd")))
	set, err := images.Set(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(place.Dir, "images.tar")
	if err := images.Save(archive, set); err != nil {
		t.Fatal(err)
	}
	n.Must(t, "--namespace", "k8s.io", "images", "import", archive)
	n.serve(t)
	return n
}

// serve answers for the API server in the place.
func (n *installed) serve(t *testing.T) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		patch, _ := io.ReadAll(r.Body)
		n.labels <- r.URL.Path + " " + string(patch)
	}))
	server.Listener = n.Place.Listen(t, "127.0.0.1:0")
	server.StartTLS()
	t.Cleanup(server.Close)
	n.server = server.Listener.Addr().String()
	n.write(t, "account/ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	n.write(t, "account/token", "token")
	const account = "/run/secrets/kubernetes.io/serviceaccount"
	n.Place.Run(t, "sh", "-c", "mkdir -p "+account+" && mount --bind "+filepath.Join(n.Place.Dir, "account")+" "+account)
}

func (n *installed) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(n.Place.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// payload is what the installer's image holds, in a version.
func (n *installed) payload(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(n.Place.Dir, "payload-"+version)
	const script = `mkdir -p "$1/bin" "$1/guest" && cp -r "$2/guest/small" "$1/guest/" &&
		cp "$2/cloister" "$2/containerd-shim-cloister-v2" "$1/bin/"`
	n.Place.Run(t, "sh", "-c", script, "payload", dir, testenv.Build(t))
	n.write(t, "payload-"+version+"/mark", version)
	return dir
}

// command prepares cloister-node.
func (n *installed) command(t *testing.T, payload, verb string) *exec.Cmd {
	t.Helper()
	address, port, _ := strings.Cut(n.server, ":")
	cmd := n.Place.Command(t.Context(), filepath.Join(testenv.Build(t), "cloister-node"), "--root=/", "--payload="+payload, "--node=n1",
		"--settings="+filepath.Join(n.Place.Dir, "settings"), "--containerd-config="+filepath.Join(n.Place.Dir, "containerd.toml"),
		"--restart=bash "+filepath.Join(n.Place.Dir, "restart.sh"), verb)
	cmd.Env = append(os.Environ(), "KUBERNETES_SERVICE_HOST="+address, "KUBERNETES_SERVICE_PORT="+port)
	return cmd
}

// node runs cloister-node and gives what it said.
func (n *installed) node(t *testing.T, payload, verb string) string {
	t.Helper()
	out, err := n.command(t, payload, verb).CombinedOutput()
	if err != nil {
		t.Fatalf("cloister-node %s: %v: %s", verb, err, out)
	}
	return string(out)
}

// label checks the last label that the API server received.
func (n *installed) label(t *testing.T, want string) {
	t.Helper()
	got := ""
	for more := true; more; {
		select {
		case got = <-n.labels:
		default:
			more = false
		}
	}
	if !strings.Contains(got, "/api/v1/nodes/n1 ") || !strings.Contains(got, want) {
		t.Errorf("the API server got %q, want %s of node n1", got, want)
	}
}

// TestNodeInstaller puts cloister on a node, upgrades it under a container that runs, and takes it
// back once nothing runs.
func TestNodeInstaller(t *testing.T) {
	n := newInstalled(t)
	first, second := n.payload(t, "1"), n.payload(t, "2")
	n.write(t, "settings/class.toml", "class = \"process\"\n") // its shim is as long-lived as a guest's, and starts at once
	before := n.listing(t)
	t.Logf("install:\n%s", n.node(t, first, "install"))
	n.label(t, `"io.cloister/runtime":"true"`)
	if said := n.node(t, first, "install"); strings.Contains(said, "restart.sh") {
		t.Errorf("a second install restarts containerd: %s", said)
	}
	old := n.Place.Run(t, "readlink", "/opt/cloister/current")
	n.Must(t, "-n", "k8s.io", "run", "--detach", "--runtime", cloister, images.BusyboxName, "lasting", "sleep", "1000")

	n.node(t, second, "install")
	if now := n.Place.Run(t, "readlink", "/opt/cloister/current"); now == old {
		t.Errorf("after the upgrade the version in use is still %s", now)
	}
	if got := n.Must(t, "-n", "k8s.io", "task", "exec", "--exec-id", "e", "lasting", "uname", "-s"); got != "Linux\n" {
		t.Errorf("exec after the upgrade = %q", got)
	}
	n.Place.Run(t, "test", "-d", "/opt/cloister/"+strings.TrimSpace(old)) // its shim runs from there

	removing := n.command(t, second, "remove")
	said, err := removing.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	removing.Stderr = removing.Stdout
	if err := removing.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(said)
	if line, err := lines.ReadString('\n'); !strings.HasPrefix(line, "sandboxes on node n1: 1 (k8s.io/lasting)") {
		t.Fatalf("remove says %q, %v, want the sandbox that it waits for", line, err)
	}
	n.Must(t, "-n", "k8s.io", "task", "kill", "--signal", "KILL", "lasting")
	n.Run(t, "-n", "k8s.io", "task", "delete", "--force", "lasting")
	rest, _ := io.ReadAll(lines)
	if err := removing.Wait(); err != nil {
		t.Fatalf("remove: %v: %s", err, rest)
	}
	n.label(t, `"io.cloister/runtime":null`)
	if after := n.listing(t); after != before {
		t.Errorf("the node before:\n%s\nand after:\n%s", before, after)
	}
}

// listing is what of cloister could be on the node, and containerd's config.
func (n *installed) listing(t *testing.T) string {
	t.Helper()
	return n.Place.Run(t, "sh", "-c", "cat "+filepath.Join(n.Place.Dir, "containerd.toml")+
		"; find /opt/cloister /usr/local/bin/*cloister* /etc/cloister /var/lib/cloister /run/cloister 2>/dev/null | sort; true")
}
