// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// projected: config maps, secrets, tokens and the pod's own fields are files; what changes in the
// cluster changes in the guest, but not below a subPath.
func projected(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: first}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {role: reading}}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: password, secret: {secretName: password, defaultMode: 0440}}
  - name: all
    projected:
      sources:
      - {serviceAccountToken: {path: token, expirationSeconds: 3600, audience: somebody}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
      - {downwardAPI: {items: [{path: memory, resourceFieldRef: {containerName: main, resource: limits.memory}}]}}
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "1000"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    env:
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one/colour, subPath: colour}
    - {name: password, mountPath: /password}
    - {name: all, mountPath: /all}
`)
	s.ready(t, "reader")
	ip := s.field(t, "pod/reader", ".status.podIP")
	script := "cat /settings/colour; echo; cat /one/colour; echo; cat /password/word; echo; stat -L -c %a /password/word; " +
		"cat /all/labels; echo; cat /all/memory; echo; echo $NODE $IP $WORD $CPU $MEMORY; tr -cd . </all/token | wc -c"
	want := fmt.Sprintf("red\nred\nfirst\n440\nrole=\"reading\"\n%d\n%s %s first 500 %[1]d\n2\n", 64<<20, nodeName, ip)
	if got := s.exec(t, "reader", script); got != want {
		t.Errorf("%s\n= %q, want %q", script, got, want)
	}
	if _, err := s.tryExec(t, "reader", "echo x >/settings/colour"); err == nil {
		t.Error("a config map was written to")
	}
	s.must(t, "patch", "configmap", "settings", "--patch", `{"data":{"colour":"blue"}}`)
	s.must(t, "patch", "secret", "password", "--patch", `{"stringData":{"word":"second"}}`)
	s.await(t, "the changed volumes", func() string {
		if got := s.exec(t, "reader", "cat /settings/colour /password/word /one/colour"); got != "bluesecondred" {
			return got
		}
		return ""
	})
}

// sized: an emptyDir above its limit has its pod evicted.
func sized(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {sizeLimit: 10Mi}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 8Mi}}]
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}]}
`)
	s.ready(t, "full")
	if got, err := s.tryExec(t, "full", "dd if=/dev/zero of=/m/x bs=1M count=12"); err == nil || !strings.Contains(got, "No space left") {
		t.Errorf("12 MiB in an emptyDir of 8 MiB in memory: %v: %s", err, got)
	}
	s.exec(t, "full", "dd if=/dev/zero of=/v/x bs=1M count=20 2>/dev/null")
	s.awaitField(t, "pod/full", ".status.reason", "Evicted")
	if got := s.field(t, "pod/full", ".status.message"); !strings.Contains(got, "exceeds the limit \"10Mi\"") {
		t.Errorf("the eviction says %q", got)
	}
}

// persistent: a StatefulSet's pod finds its local volume again after it was deleted, and a block
// device is one in the guest.
func persistent(t *testing.T, s *space) {
	dir := s.path("volumes/data")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	image := s.path("volumes/disk")
	s.Place.Run(t, "truncate", "-s", "16M", image)
	device := strings.TrimSpace(s.Place.Run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() {
		if out, err := s.Place.Command(context.WithoutCancel(t.Context()), "losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	const affinity = `nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [` +
		`{key: kubernetes.io/hostname, operator: In, values: [` + nodeName + `]}]}]}}`
	s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: data
  local: {path: %q}
  %s
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 16Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: disk
  volumeMode: Block
  local: {path: %q}
  %[2]s
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {storageClassName: disk, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      runtimeClassName: cloister
      terminationGracePeriodSeconds: 1
      volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
      containers:
      - name: main
        image: IMAGE
        command: [sleep, "1000"]
        volumeMounts: [{name: data, mountPath: /data}]
        volumeDevices: [{name: disk, devicePath: /dev/disk}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: data, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`, dir, affinity, device))
	t.Cleanup(func() { s.must(t, "delete", "persistentvolume", "data", "disk", "--wait=false") })
	s.rollout(t, "statefulset/db")
	s.exec(t, "db-0", "hostname >/data/f; sync; test -b /dev/disk; echo block | dd of=/dev/disk conv=notrunc,fsync 2>/dev/null")
	uid := s.field(t, "pod/db-0", ".metadata.uid")
	s.must(t, "delete", "pod", "db-0")
	s.await(t, "the next pod", func() string {
		if got, err := s.try(t, "get", "pod", "db-0", "-o", "jsonpath={.metadata.uid}"); err != nil || got == uid {
			return got + " "
		}
		return ""
	})
	s.ready(t, "db-0")
	if got := s.exec(t, "db-0", "cat /data/f; dd if=/dev/disk bs=6 count=1 2>/dev/null"); got != "db-0\nblock\n" {
		t.Errorf("the next pod finds %q", got)
	}
}
