// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// probed: probes of each kind reach the guest, and one that fails restarts its container.
func probed(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 2
  containers:
  - name: web
    image: IMAGE
    command: [sh, -c, "mkdir /www; echo page >/www/f; touch /alive; exec httpd -f -p 8080 -h /www"]
    startupProbe: {httpGet: {path: /f, port: 8080}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
    livenessProbe: {exec: {command: [test, -e, /alive]}, periodSeconds: 2, timeoutSeconds: 20, failureThreshold: 1}
  - name: etcd
    image: `+etcdImage+`
    args: [--data-dir=/tmp/d, --log-level=error,
      "--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://127.0.0.1:2379"]
    readinessProbe: {grpc: {port: 2379}, periodSeconds: 2, timeoutSeconds: 20}
`)
	s.ready(t, "probed")
	if got := s.field(t, "pod/probed", ".status.containerStatuses[?(@.name=='web')].restartCount"); got != "0" {
		t.Errorf("restarted %s times while its probes were good", got)
	}
	s.exec(t, "probed", "rm /alive")
	s.awaitField(t, "pod/probed", ".status.containerStatuses[?(@.name=='web')].restartCount", "1")
	s.ready(t, "probed")
}

// ended: containers end as under runc: exit code, reason, termination message, and the message
// about a program that is missing.
func ended(t *testing.T, s *space) {
	for _, class := range []string{"cloister", "plain"} {
		s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  restartPolicy: Never
  containers:
  - {name: message, image: IMAGE, command: [sh, -c, "echo the end >/dev/termination-log; exit 7"]}
  - name: log
    image: IMAGE
    command: [sh, -c, "echo last words; exit 3"]
    terminationMessagePolicy: FallbackToLogsOnError
  - name: killed
    image: IMAGE
    command: [sh, -c, "dd if=/dev/zero of=/dev/shm/x bs=1M count=200"]
    resources: {limits: {memory: 32Mi}}
  - {name: missing, image: IMAGE, command: [/nothing]}
`, class, classLine(class)))
	}
	const each = `{range .status.containerStatuses[*]}{.name} {.state.terminated.exitCode} ` +
		`{.state.terminated.reason} {.state.terminated.message}{"\n"}{end}`
	for _, pod := range []string{"plain", "cloister"} {
		s.awaitField(t, "pod/"+pod, ".status.phase", "Failed")
		got := s.must(t, "get", "pod", pod, "-o", "jsonpath="+each)
		for _, want := range []string{
			"message 7 Error the end", "log 3 Error last words", "killed 137 OOMKilled", "missing 128 StartError",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("the containers of %s ended as\n%s\nwant %q", pod, got, want)
			}
		}
		if !strings.Contains(got, "/nothing") {
			t.Errorf("%s: no word of the program that is missing:\n%s", pod, got)
		}
	}
}

// classes are the RuntimeClasses side by side; a plain pod has none.
var classes = []string{"cloister", "cloister-process", "plain"}

// classLine is the line of a pod's spec that asks for cloister; a plain pod's has none.
func classLine(pod string) string {
	if pod == "plain" {
		return ""
	}
	return "runtimeClassName: " + pod
}

// crashing: a container that ends again and again is backed off, and its log of before stays, as
// with runc.
func crashing(t *testing.T, s *space) {
	for _, class := range []string{"cloister", "plain"} {
		s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo run >>/v/runs; echo run $(wc -l </v/runs); exit 1"]
    volumeMounts: [{name: v, mountPath: /v}]
`, class, classLine(class)))
	}
	for _, pod := range []string{"plain", "cloister"} {
		s.awaitField(t, "pod/"+pod, ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")
		if got := s.must(t, "logs", pod, "--previous"); !strings.HasPrefix(got, "run ") {
			t.Errorf("%s: log of the run before = %q", pod, got)
		}
	}
}

// stopped: deleting a pod runs its hook, then sends the signal, and waits, as with runc.
func stopped(t *testing.T, s *space) {
	for _, class := range []string{"cloister", "plain"} {
		s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 60
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'echo signal; exit 0' TERM; echo started; while :; do sleep 0.2; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo hook >/proc/1/fd/1"]}}
      preStop: {exec: {command: [sh, -c, "echo before >/proc/1/fd/1"]}}
`, class, classLine(class)))
	}
	s.ready(t, "cloister", "plain")
	for _, pod := range []string{"plain", "cloister"} {
		follow := s.background(t, "logs", "--follow", pod)
		s.must(t, "delete", "pod", pod)
		if got := follow(); !strings.Contains(got, "started") || !strings.Contains(got, "hook") ||
			!strings.Contains(got, "before\nsignal\n") {
			t.Errorf("the log of %s that was followed:\n%s", pod, got)
		}
	}
}

// staged: init containers come first, one after the other; a restartable one stays beside the main
// container and ends after it.
func staged(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: staged}
spec:
  runtimeClassName: cloister
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: one, image: IMAGE, command: [sh, -c, "echo one >>/v/order"], volumeMounts: &v [{name: v, mountPath: /v}]}
  - name: side
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "echo side >>/v/order; trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    startupProbe: {exec: {command: [grep, side, /v/order]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60}
    volumeMounts: *v
  - {name: two, image: IMAGE, command: [sh, -c, "echo two >>/v/order"], volumeMounts: *v}
  containers:
  - {name: main, image: IMAGE, command: [sh, -c, "echo main >>/v/order; cat /v/order"], volumeMounts: *v}
`)
	s.awaitField(t, "pod/staged", ".status.phase", "Succeeded")
	if got := s.must(t, "logs", "staged", "-c", "main"); got != "one\nside\ntwo\nmain\n" {
		t.Errorf("the order was %q", got)
	}
	const statuses = ".status.%s[?(@.name==%q)].state.terminated.%s"
	main := s.field(t, "pod/staged", fmt.Sprintf(statuses, "containerStatuses", "main", "finishedAt"))
	side := s.field(t, "pod/staged", fmt.Sprintf(statuses, "initContainerStatuses", "side", "finishedAt"))
	if main == "" || side < main { // RFC 3339 in UTC sorts as text
		t.Errorf("the sidecar ended at %q, the main container at %q", side, main)
	}
	if got := s.field(t, "pod/staged", fmt.Sprintf(statuses, "initContainerStatuses", "side", "exitCode")); got != "0" {
		t.Errorf("the sidecar's exit code = %q, want 0, by its own trap", got)
	}
}

// streams: exec with a terminal whose size changes, attach, cp in both directions, port-forward to
// a port that is open and to one that is not.
func streams(t *testing.T, s *space) {
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: streams}
spec:
  runtimeClassName: cloister
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: IMAGE
    command: [sh, -c, "mkdir /www; echo page >/www/f; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
  - {name: echo, image: IMAGE, stdin: true, stdinOnce: true, command: [sh, -c, "while read -r line; do echo got $line; done; echo over"]}
`)
	s.ready(t, "streams")
	typed := "until stty size | grep ^33; do sleep 0.1; done; tty; echo said $((6 * 7)); " +
		"until stty size | grep ^44; do sleep 0.1; done; exit\n"
	got := s.terminal(t, typed, "exec", "-it", "streams", "-c", "web", "--", "sh")
	if !strings.Contains(got, "33 111\r\n/dev/pts/0\r\nsaid 42\r\n44 122\r\n") {
		t.Errorf("exec with a terminal of 33 rows and 111 columns, later 44 and 122: %q", got)
	}
	if _, err := s.try(t, "exec", "streams", "-c", "web", "--", "sh", "-c", "exit 5"); err == nil || !strings.Contains(err.Error(), "5") {
		t.Errorf("exec of what ends with 5: %v", err)
	}
	got, err := s.input(t, "one\ntwo\n", "attach", "-i", "streams", "-c", "echo")
	if err != nil || !strings.Contains(got, "got one\ngot two\nover\n") {
		t.Errorf("attach: %v: %q", err, got)
	}
	from := s.write(t, "cp/"+s.name, strings.Repeat("0123456789abcdef", 65536))
	s.must(t, "cp", from, "streams:/tmp/f", "-c", "web")
	s.must(t, "cp", "streams:/tmp/f", from+".back", "-c", "web")
	s.Place.Run(t, "cmp", from, from+".back")
	if got := s.forward(t, "streams", 8080); !strings.HasSuffix(got, "page\n") {
		t.Errorf("port-forward: %q", got)
	}
	// Something accepts each connection for the guest, whether or not it listens.
	if got := s.forward(t, "streams", 8081); !strings.Contains(got, "connection reset by peer") {
		t.Errorf("port-forward to a port where nothing listens: %q", got)
	}
}

// forward asks for the page /f by kubectl port-forward, and gives the last line of the answer after
// what kubectl complains of.
func (s *space) forward(t *testing.T, pod string, port int) string {
	t.Helper()
	const script = `exec 3< <("$@"); read -r line <&3; port=${line#*127.0.0.1:}; port=${port%% *}
exec 4<>/dev/tcp/127.0.0.1/$port; printf 'GET /f HTTP/1.0\r\n\r\n' >&4; tail -n 1 <&4; kill $! || true`
	forward := s.command(t.Context(), "--namespace", s.name, "port-forward", pod, fmt.Sprintf(":%d", port))
	args := append([]string{"-c", script, "forward"}, forward.Args[len(forward.Args)-6:]...)
	cmd := s.Place.Command(t.Context(), "bash", args...)
	cmd.Env = forward.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("port-forward: %v: %q", err, out)
	}
	return string(out)
}

// get is a script that asks for the page /f. Debian's static busybox cannot resolve names in wget.
func get(address string, port int) string {
	return fmt.Sprintf(`printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 20 %s %d | tail -n 1`, address, port)
}

// sideBySide: a pod of runc's, one of cloister's machines and one of its plain containers reach
// each other. The machine alone has a kernel of its own. Pods of each class of quality of service
// are in the kubelet's cgroups of that class.
func sideBySide(t *testing.T, s *space) {
	for _, class := range classes {
		s.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {name: %[1]s}}
spec:
  %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "mkdir /www; hostname >/www/f; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
    resources: {requests: {cpu: 250m, memory: 64Mi}, limits: {cpu: 250m, memory: 64Mi}}
`, class, classLine(class)))
	}
	s.ready(t, classes...)
	host := s.Place.Run(t, "uname", "-r")
	for _, to := range classes {
		if got, own := s.exec(t, to, "uname -r"), to == "cloister"; (got != host) != own {
			t.Errorf("kernel of the pod %s = %q, the host's is %q", to, got, host)
		}
		ip := s.field(t, "pod/"+to, ".status.podIP")
		for _, from := range classes {
			if got := s.exec(t, from, get(ip, 8080)); got != to+"\n" {
				t.Errorf("from %s to %s: %q", from, to, got)
			}
		}
	}
	// The kubelet has the cgroups of guaranteed pods beside the folders of the other classes.
	s.checkQoS(t, "cloister", "Guaranteed", "kubepods")
	s.checkQoS(t, "cloister-process", "Guaranteed", "kubepods")
	// Plain containers need no boot, which takes long at a weight this low.
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  runtimeClassName: cloister-process
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sleep, "1000"], resources: %s}]
`
	s.apply(t, fmt.Sprintf(pod, "burstable", "{requests: {cpu: 10m}}"))
	effort := s.makeSpace(t, s.name+"-besteffort", "")
	effort.apply(t, fmt.Sprintf(pod, "besteffort", "{}"))
	s.ready(t, "burstable")
	s.checkQoS(t, "burstable", "Burstable", "burstable")
	effort.ready(t, "besteffort")
	effort.checkQoS(t, "besteffort", "BestEffort", "besteffort")
}

// checkQoS: a pod has a class of quality of service, and the kubelet's cgroup of that class has the
// pod's processes.
func (s *space) checkQoS(t *testing.T, pod, class, folder string) {
	t.Helper()
	if got := s.field(t, "pod/"+pod, ".status.qosClass"); got != class {
		t.Errorf("class of the pod %s = %s, want %s", pod, got, class)
	}
	group := s.podCgroup(t, pod)
	if got := filepath.Base(filepath.Dir(group)); got != folder {
		t.Errorf("the cgroup of the pod %s, class %s, is in %s, want %s", pod, class, got, folder)
	}
	if processes(t, group) == "" {
		t.Errorf("no process of the pod %s is below %s", pod, group)
	}
}
