// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"cloister/tests/clients"
	"cloister/tests/images"
)

// Images of one static program each.
const (
	dnsImage  = "docker.io/cloister/coredns:1"
	etcdImage = "docker.io/cloister/etcd:1"
)

const dnsManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns}
data: {Corefile: ".:53 { \n errors \n ready \n kubernetes cluster.local \n }\n"}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: coredns}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      volumes: [{name: config, configMap: {name: coredns}}]
      containers:
      - name: coredns
        image: ` + dnsImage + `
        args: [-conf, /config/Corefile]
        volumeMounts: [{name: config, mountPath: /config}]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 2}
        resources: {requests: {cpu: 10m, memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns}
spec:
  clusterIP: ` + serviceDNS + `
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`

// serveDNS has CoreDNS answer for the cluster's names, in a plain pod.
func (c *cluster) serveDNS(t *testing.T) {
	t.Helper()
	c.loadProgram(t, dnsImage, filepath.Join(clients.Need(t, clients.CoreDNS, "coredns"), "coredns"))
	system := &space{c, "kube-system"}
	system.apply(t, strings.ReplaceAll(dnsManifest, "\t", ""))
	system.rollout(t, "daemonset/coredns")
}

// loadProgram makes an image of one static program.
func (c *cluster) loadProgram(t *testing.T, name, path string) {
	t.Helper()
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	entries := []images.Entry{{Name: "program", Mode: 0o755, Data: program}, {Name: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}}
	img, err := images.New(empty.Image, entries, v1.Config{Entrypoint: []string{"/program"}})
	if err != nil {
		t.Fatal(err)
	}
	archive := c.path(filepath.Base(path) + ".tar")
	if err := images.Save(archive, map[string]v1.Image{name: img}); err != nil {
		t.Fatal(err)
	}
	c.load(t, archive)
}
