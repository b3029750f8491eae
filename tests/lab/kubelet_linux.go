// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
)

// kubeletConfig is that of a kubelet without an API server: its pods are files in a folder. It
// leaves the machine's disk and packet filter alone, and lets anybody in the machine ask it. A
// request to containerd has the time that the configuration gives the boot of a guest.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: ` + manifests + `
containerRuntimeEndpoint: unix:///run/containerd2/containerd.sock
cgroupDriver: cgroupfs
address: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
fileCheckFrequency: 1s
syncFrequency: 5s
runtimeRequestTimeout: 5m
makeIPTablesUtilChains: false
resolvConf: /etc/resolv.conf
evictionHard: {memory.available: 10Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`

// kubeletNode makes the machine look like a node: an address, a default route, a name server.
const kubeletNode = `ip link add node0 type bridge
ip addr add 192.0.2.10/24 dev node0
ip link set node0 up
ip route add default via 192.0.2.1
echo nameserver 192.0.2.1 >/etc/resolv.conf
mkdir -p ` + manifests + `
`

// Where the kubelet looks for pods, and the name of its node, which ends the pods' names.
const (
	manifests   = "/run/lab/manifests"
	kubeletHost = "lab"
)

// kubeletPod is a pod with a volume of each kind that needs no API server.
const kubeletPod = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: default, labels: {tenant: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: host, hostPath: {path: /srv/%[1]s, type: DirectoryOrCreate}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  containers:
  - name: main
    image: %[2]s
    imagePullPolicy: Never
    command: [sh, -c, "for v in disk memory host; do echo %[1]s >/$v/made; done; cat /info/labels; echo; exec sleep 3000"]
    readinessProbe:
      exec: {command: [grep, %[1]s, /disk/made, /memory/made, /host/made, /info/labels]}
      periodSeconds: 2
      timeoutSeconds: 60
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: info, mountPath: /info}
`

// kubeletFiles are a kubelet, of a folder of Kubernetes' programs, and its configuration.
func kubeletFiles(work, bin string) ([]file, error) {
	kind, err := chosenPolicy()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(work, "kubelet.yaml")
	if err := os.WriteFile(config, []byte(kubeletConfig), 0o644); err != nil {
		return nil, err
	}
	_, program := engineTypes(kind)
	return []file{
		{"bin/kubelet", filepath.Join(bin, "kubelet"), program},
		{"kubelet.yaml", config, "etc_t"},
	}, nil
}
