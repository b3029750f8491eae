// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"strings"
	"testing"
)

// rolled: a Deployment of three behind a Service is rolled to another version; a guest and a plain
// pod find it by name.
func rolled(t *testing.T, s *space) {
	s.serveDNS(t)
	deployment := func(version string) string {
		return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      runtimeClassName: cloister
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: IMAGE
        command: [sh, -c, "mkdir /www; echo %s >/www/f; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
        resources: {limits: {memory: 48Mi}, requests: {cpu: 10m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`, version)
	}
	s.apply(t, deployment("one"))
	s.rollout(t, "deployment/web")
	for _, client := range []string{"cloister", "plain"} {
		s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"], resources: {requests: {cpu: 10m}}}
`, client, classLine(client)))
	}
	s.ready(t, "cloister", "plain")
	name := "web." + s.name + ".svc.cluster.local"
	script := "address=$(nslookup " + name + " | awk '/^Address/ { a = $NF } END { print a }'); " +
		"for i in 1 2 3 4; do " + get("$address", 80) + "; done | sort -u"
	ask := func(want string) func() string {
		return func() string {
			for _, client := range []string{"cloister", "plain"} {
				if got, err := s.tryExec(t, client, script); err != nil || got != want {
					return fmt.Sprintf("from %s: %q, %v, want %q", client, got, err, want)
				}
			}
			return ""
		}
	}
	s.await(t, "the service by name", ask("one\n"))
	s.apply(t, deployment("two"))
	s.rollout(t, "deployment/web")
	s.await(t, "the service after the update", ask("two\n"))
}

// batched: a Job of two runs to its end, and a CronJob makes Jobs.
func batched(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  completions: 2
  parallelism: 2
  backoffLimit: 3
  template:
    spec:
      runtimeClassName: cloister
      terminationGracePeriodSeconds: 1
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "echo done by $(hostname)"], resources: {requests: {cpu: 10m}}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cron}
spec:
  schedule: "* * * * *"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      template:
        spec:
          runtimeClassName: cloister
          terminationGracePeriodSeconds: 1
          restartPolicy: Never
          containers: [{name: main, image: IMAGE, command: [date], resources: {requests: {cpu: 10m}}}]
`)
	s.awaitField(t, "job/job", ".status.succeeded", "2")
	if got := s.must(t, "logs", "--selector=batch.kubernetes.io/job-name=job"); strings.Count(got, "done by job-") != 2 {
		t.Errorf("logs of the job = %q", got)
	}
	s.await(t, "a job of the CronJob", func() string {
		if got := s.field(t, "cronjob/cron", ".status.lastSuccessfulTime"); got == "" {
			return "none has succeeded"
		}
		return ""
	})
	s.must(t, "delete", "cronjob", "cron")
}

// restricted: a pod as Pod Security's level restricted wants it.
func restricted(t *testing.T, s *space) {
	s.must(t, "label", "namespace", s.name, "pod-security.kubernetes.io/enforce=restricted")
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: restricted}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "1000"]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: v, mountPath: /v}]
`
	s.apply(t, pod)
	s.ready(t, "restricted")
	script := "id -u; id -G; touch /v/f; stat -c %g /v/f; touch /f 2>/dev/null || echo read-only; " +
		"awk '/^(CapEff|NoNewPrivs|Seccomp):/ { print $2 }' /proc/self/status"
	if got := s.exec(t, "restricted", script); got != "1000\n0 2000\n2000\nread-only\n0000000000000000\n1\n2\n" {
		t.Errorf("%s\n= %q", script, got)
	}
	s.mustNot(t, "run", "forbidden", "--image="+image, "--restart=Never", "--", "sleep", "1000")
}

// userns: root of a pod with hostUsers: false is root in its own namespace alone, and owns what it
// writes to a volume.
func userns(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: mapped}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  hostUsers: false
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - {name: main, image: IMAGE, command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}
`)
	s.ready(t, "mapped")
	script := "id -u; touch /v/f; stat -c %u /v/f; awk '{ print $1, $2 != 0, $3 }' /proc/self/uid_map"
	if got := s.exec(t, "mapped", script); got != "0\n0\n0 1 65536\n" {
		t.Errorf("uid, owner of a file, map = %q", got)
	}
}
