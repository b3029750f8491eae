// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
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

// Addresses of the cluster's one node, its services and their name server.
const (
	nodeName    = "node"
	nodeAddress = "192.0.2.10"
	serviceDNS  = "10.96.0.10"
	server      = "https://" + nodeAddress + ":6443"
)

// accounts are the users of the cluster's own programs, with the groups that RBAC knows.
var accounts = []struct{ name, user, group string }{
	{"admin", "admin", "system:masters"},
	{"controllers", "system:kube-controller-manager", ""},
	{"scheduler", "system:kube-scheduler", ""},
	{"proxy", "system:kube-proxy", ""},
	{"kubelet", "system:node:" + nodeName, "system:nodes"},
}

// cluster is a control plane and a node in one place.
type cluster struct {
	*host.Containerd
	bin      string // Kubernetes' programs
	etcd     string // the program
	dir      string
	cgroups  string // name of the cgroup below which the kubelet has its own
	deploy   string // folder of the tree's folder deploy that fits the node
	programs map[string]*program
}

// node makes the place look like a node: an address, a default route, folders that take mounts, and
// the kernel's settings that a kubelet wants, without a change to the host's. Each start is another
// boot.
const node = `set -e
dir=$1
for folder in /var/lib/kubelet /var/lib/cni /var/log/pods; do
	mkdir -p "$dir$folder" "$folder"
	mount --bind "$dir$folder" "$folder"
done
setting() { echo "$2" >"$dir/$(basename "$1")"; mount --bind "$dir/$(basename "$1")" "/proc/sys/$1"; }
setting vm/overcommit_memory 1
setting kernel/panic 10
setting kernel/panic_on_oops 1
setting kernel/random/boot_id "$(cat /proc/sys/kernel/random/uuid)"
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
ip link add eth0 type bridge
ip addr add ` + nodeAddress + `/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.1
printf '127.0.0.1 localhost\n` + nodeAddress + ` ` + nodeName + `\n' >/etc/hosts
printf 'nameserver 192.0.2.1\n' >/etc/resolv.conf.new
mv -f /etc/resolv.conf.new /etc/resolv.conf
mount --make-rshared /
`

const criConfig = `
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  stats_collect_period = "10s"
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%q]
    conf_dir = %q
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "` + images.PauseName + `"
`

const bridge = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.85.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}`

// newCluster starts a cluster whose node is ready.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	testenv.NeedSandbox(t)
	testenv.NeedTool(t, "iptables")
	cgroups := makeCgroups(t) // taken away after the place
	c := newNode(t, clients.EarlierContainerd)
	c.cgroups = cgroups
	c.writeAccounts(t)
	c.startPrograms(t)
	c.loadProgram(t, etcdImage, c.etcd)
	if wrong := host.Await(host.CallLimit, func() string {
		out, err := c.try(t, "get", "node", nodeName, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil || out != "True" {
			return fmt.Sprintf("ready: %q, %v", out, err)
		}
		return ""
	}); wrong != "" {
		out, _ := c.try(t, "describe", "node")
		t.Fatalf("the node is not ready: %s\n%s", wrong, out)
	}
	return c
}

// newNode makes a place that looks like a node, with a containerd and images.
func newNode(t *testing.T, containerd clients.Set) *cluster {
	t.Helper()
	c := &cluster{
		bin:      clients.Need(t, clients.Kubernetes, "kubelet"),
		etcd:     filepath.Join(clients.Need(t, clients.Etcd, "server"), "server"),
		programs: map[string]*program{},
	}
	place := host.New(t)
	c.dir = filepath.Join(place.Dir, "cluster")
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.settle(t, place)
	place.Run(t, "rm", "-rf", "/var/lib/cloister", "/etc/cloister") // the host's own, as the place sees it
	c.useContainerd(t, containerd)
	c.startContainerd(t, place)
	return c
}

// settle makes the place look like a node.
func (c *cluster) settle(t *testing.T, place *host.Place) {
	t.Helper()
	place.Overlay(t, "/etc", "/opt", "/var/lib", "/var/log", "/usr/local")
	place.Run(t, "bash", "-c", node, "node", c.dir)
}

// useContainerd puts containerd's programs of a set where the node has them.
func (c *cluster) useContainerd(t *testing.T, set clients.Set) {
	t.Helper()
	dir := clients.Need(t, set, "containerd")
	if err := os.MkdirAll(c.path("programs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		next := c.path("programs/next")
		err := os.Symlink(filepath.Join(dir, name), next)
		if err == nil {
			err = os.Rename(next, c.path("programs/"+name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// startContainerd starts a containerd that knows no cloister, and keeps it.
func (c *cluster) startContainerd(t *testing.T, place *host.Place) {
	t.Helper()
	c.write(t, "net.d/10-pods.conflist", fmt.Sprintf(bridge, c.path("ipam")))
	containerd, plugins := c.path("programs"), clients.Need(t, clients.CNI, "bridge")
	path := containerd + ":" + clients.Need(t, clients.Runc, "runc") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	c.Containerd = place.StartContainerd(t, host.Options{
		Version: host.Current, Bin: containerd, CRI: true, Config: fmt.Sprintf(criConfig, plugins, c.path("net.d")),
		Env: []string{"PATH=" + path, "CLOISTER_CONFIG="}, // cloister's own folders
	})
	c.Keep(t)
	c.write(t, "restart.sh", fmt.Sprintf(restart, filepath.Join(containerd, "containerd")))
	set, err := images.Set(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	set[image] = set[images.BusyboxName]
	archive := c.path("images.tar")
	if err := images.Save(archive, set); err != nil {
		t.Fatal(err)
	}
	c.load(t, archive)
}

// restart ends containerd, as systemctl restart does; what keeps it starts it again.
const restart = `for dir in /proc/[0-9]*; do
	read -r -d '' program 2>/dev/null <$dir/cmdline || continue
	[ "$program" = %q ] || continue
	kill "${dir#/proc/}"
	while [ -d "$dir" ]; do sleep 0.1; done
done
`

// load imports an archive of images.
func (c *cluster) load(t *testing.T, archive string) {
	t.Helper()
	c.Must(t, "--namespace", "k8s.io", "images", "import", archive)
}

// write writes a file of the cluster's folder and gives its path, the same in the place.
func (c *cluster) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// path is that of a file of the cluster's folder.
func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

// writeAccounts makes the users' tokens and the key that service accounts' tokens are signed with.
func (c *cluster) writeAccounts(t *testing.T) {
	t.Helper()
	var tokens strings.Builder
	for _, a := range accounts {
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", token(a.name), a.user, a.user, a.group)
	}
	c.write(t, "tokens.csv", tokens.String())
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	c.write(t, "accounts.key", string(private))
	c.writeCertificates(t)
}

func token(name string) string { return "token-of-" + name }

// config writes a kubeconfig of an account.
func (c *cluster) config(t *testing.T, account string) string {
	t.Helper()
	return c.write(t, account+".conf", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server, c.path("pki/apiserver.crt"), token(account)))
}

// startPrograms starts those of the cluster, and waits for none but the API server.
func (c *cluster) startPrograms(t *testing.T) {
	t.Helper()
	c.controlPlane(t)
	c.startKubelet(t)
	c.proxy(t)
}

func (c *cluster) controlPlane(t *testing.T) {
	t.Helper()
	c.stores(t)
	c.start(t, "controllers", filepath.Join(c.bin, "kube-controller-manager"),
		"--kubeconfig="+c.config(t, "controllers"), "--leader-elect=false",
		"--use-service-account-credentials=true", "--service-account-private-key-file="+c.path("accounts.key"),
		"--root-ca-file="+c.path("pki/apiserver.crt"), "--cert-dir="+c.path("pki-controllers"))
	c.startScheduler(t)
}

func (c *cluster) startScheduler(t *testing.T) {
	t.Helper()
	c.start(t, "scheduler", filepath.Join(c.bin, "kube-scheduler"), "--kubeconfig="+c.config(t, "scheduler"),
		"--leader-elect=false", "--cert-dir="+c.path("pki-scheduler"))
}

// stores starts etcd and the API server, and waits until it serves.
func (c *cluster) stores(t *testing.T) {
	t.Helper()
	c.start(t, "etcd", c.etcd, "--data-dir", c.path("etcd"), "--unsafe-no-fsync", "--log-level", "warn")
	c.start(t, "apiserver", filepath.Join(c.bin, "kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443",
		"--advertise-address="+nodeAddress, "--cert-dir="+c.path("pki"), "--service-cluster-ip-range=10.96.0.0/16",
		"--token-auth-file="+c.path("tokens.csv"), "--authorization-mode=Node,RBAC", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.path("accounts.key"),
		"--service-account-signing-key-file="+c.path("accounts.key"), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-certificate-authority="+c.pki(authorityName+".crt"),
		"--requestheader-client-ca-file="+c.pki(authorityName+".crt"), "--requestheader-allowed-names="+frontName,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.pki(frontName+".crt"), "--proxy-client-key-file="+c.pki(frontName+".key"))
	c.config(t, "admin")
	if wrong := host.Await(host.CallLimit, func() string {
		out, err := c.try(t, "get", "--raw", "/readyz")
		if err != nil {
			return err.Error() + out
		}
		return ""
	}); wrong != "" {
		t.Fatalf("the API server does not serve: %s", wrong)
	}
}

// kubeletConfig lets a kubelet run where the host's disk is nearly full and its cgroups are of
// version 1, and look at changed objects often.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failSwapOn: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: %q
makeIPTablesUtilChains: false
containerRuntimeEndpoint: %q
clusterDNS: [` + serviceDNS + `]
clusterDomain: cluster.local
syncFrequency: 5s
nodeStatusReportFrequency: 10s
volumePluginDir: %q
resolvConf: /etc/resolv.conf
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
tlsCertFile: %q
tlsPrivateKeyFile: %q
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`

func (c *cluster) startKubelet(t *testing.T) {
	t.Helper()
	config := c.write(t, "kubelet.yaml", fmt.Sprintf(kubeletConfig, c.cgroups, "unix://"+c.Address, c.path("plugins"),
		c.pki(kubeletName+".crt"), c.pki(kubeletName+".key")))
	c.start(t, "kubelet", filepath.Join(c.bin, "kubelet"), "--config="+config, "--kubeconfig="+c.config(t, "kubelet"),
		"--hostname-override="+nodeName, "--node-ip="+nodeAddress)
}

func (c *cluster) proxy(t *testing.T) {
	t.Helper()
	c.start(t, "proxy", filepath.Join(c.bin, "kube-proxy"), "--kubeconfig="+c.config(t, "proxy"), "--hostname-override="+nodeName,
		"--proxy-mode=iptables", "--cluster-cidr=10.85.0.0/24", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
		"--conntrack-tcp-timeout-close-wait=0")
}

// program is one of the cluster's that runs.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// start starts a program in the place, where it lasts as long as the place does. The end of its log
// is shown when the test that started it first fails.
func (c *cluster) start(t *testing.T, name, path string, args ...string) {
	t.Helper()
	file := c.path(name + ".log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := c.Place.Command(context.WithoutCancel(t.Context()), path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: cmd, done: make(chan struct{})}
	go p.wait()
	_, again := c.programs[name]
	c.programs[name] = p
	if again {
		return
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.CommandContext(context.WithoutCancel(t.Context()), "tail", "-n", "25", file).CombinedOutput()
			t.Logf("the end of the log of %s:\n%s", name, out)
		}
	})
}

func (p *program) wait() {
	_ = p.cmd.Wait() // its log tells why it ended
	close(p.done)
}
