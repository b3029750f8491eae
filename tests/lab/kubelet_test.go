// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// TestKubelet has Kubernetes' kubelet start pods on an enforcing kernel.
func TestKubelet(t *testing.T) {
	bin := clients.Need(t, clients.Kubernetes, "kubelet")
	ctx, cancel := context.WithTimeout(context.Background(), labTime)
	t.Cleanup(cancel)
	more, err := kubeletFiles(t.TempDir(), bin)
	if err != nil {
		t.Fatal(err)
	}
	rounds(ctx, t, selinuxMAC, prepare(ctx, t, selinuxMAC, more...), []scenario{{"kubelet", kubelet}})
}

// kubelet has two pods run beside each other: each at a pair of its own, with volumes that carry
// it. They become ready, answer execs, have logs, and leave nothing.
func kubelet(t *testing.T, l *lab) {
	t.Helper()
	l.sh(t, "sed -i 's/"+policy.ContainerFileType+"/"+policy.RootfsType+"/' /lab/two/contexts; "+
		`printf '[[labels.mounts]]\nsource = "/srv"\nsharing = "private"\n' >>/lab/cloister.toml`)
	l.second(t)
	l.seen = nil
	l.startKubelet(t)
	names := []string{"one", "two"}
	ids, levels := map[string]string{}, map[string]string{}
	for _, name := range names {
		path := manifests + "/" + name + ".yaml"
		if err := l.write(wire.Write{Path: path, Data: fmt.Appendf(nil, kubeletPod, name, images.BusyboxName), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	l.podsWrite(t, names...)
	l.podsAre(t, "one: True, two: True")
	for _, name := range names {
		ids[name] = strings.TrimSpace(l.sh(t, two+` --namespace k8s.io containers ls --quiet `+
			`'labels."io.cri-containerd.kind"==sandbox,labels."io.kubernetes.pod.name"==`+name+"-"+kubeletHost+`'`))
		l.wantPod(t, ids[name], "")
		levels[name] = l.podLevel(t, ids[name])
		l.wantVolumes(t, name, levels[name])
		if got := l.ask10250(t, "POST", "run/default/"+name+"-"+kubeletHost+"/main?cmd=cat+/host/made"); got != name+"\n" {
			t.Errorf("an exec in %s says %q", name, got)
		}
		log := l.ask10250(t, "GET", "containerLogs/default/"+name+"-"+kubeletHost+"/main")
		if !strings.Contains(log, fmt.Sprintf("tenant=%q", name)) {
			t.Errorf("the log of %s is %q", name, log)
		}
	}
	if levels["one"] == levels["two"] {
		t.Errorf("both pods are at %s", levels["one"])
	}
	l.sh(t, "rm "+manifests+"/*")
	l.podsAre(t, "")
	l.podsEnded(t)
	for _, name := range names {
		l.nothingLeft(t, ids[name], "/var/lib/cloister")
	}
	unexpected(t, l.machine)
}

// startKubelet starts it, and waits until it answers.
func (l *lab) startKubelet(t *testing.T) {
	t.Helper()
	begin := time.Now()
	l.sh(t, kubeletNode)
	_, err := l.run(wire.Run{Argv: []string{
		"/bin/sh", "-c",
		"echo begun; exec /lab/bin/kubelet --config=/lab/kubelet.yaml --hostname-override=" + kubeletHost + " >/run/lab/kubelet.log 2>&1",
	}, Env: labEnv(), Stay: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && l.lost == "" {
			t.Logf("the kubelet's log:\n%s", l.sh(t, "grep -E '^[EF]|panic' /run/lab/kubelet.log | tail -n 40; tail -n 20 "+
				"/run/lab/kubelet.log"))
		}
	})
	l.podsAre(t, "")
	t.Logf("kubelet: %.1f s, %s", time.Since(begin).Seconds(), strings.TrimSpace(l.sh(t, "ps -o label= -C kubelet")))
}

// ask10250 sends a request to the kubelet's port and gives its answer.
func (l *lab) ask10250(t *testing.T, method, path string) string {
	t.Helper()
	answer, err := l.askKubelet(method, path)
	if err != nil {
		t.Error(err)
	}
	return answer
}

func (l *lab) askKubelet(method, path string) (string, error) {
	answer, err := l.run(wire.Run{
		Argv: []string{"/lab/bin/pods", "kubelet", method, "https://127.0.0.1:10250/" + path}, Env: labEnv(), Seconds: 200,
	})
	if err == nil && answer.Exit != 0 {
		err = fmt.Errorf("the kubelet: exit %d: %s", answer.Exit, answer.Out)
	}
	return answer.Out, err
}

// podsAre waits until the kubelet has these pods, each with the state of its condition Ready.
func (l *lab) podsAre(t *testing.T, want string) {
	t.Helper()
	begin := time.Now()
	if wrong := host.Await(host.CallLimit, func() string {
		text, err := l.askKubelet("GET", "pods")
		if err != nil {
			return err.Error()
		}
		got, err := readiness(text)
		if err != nil {
			return err.Error()
		}
		if got != want {
			return fmt.Sprintf("pods: %q, want %q", got, want)
		}
		return ""
	}); wrong != "" {
		t.Fatal(wrong)
	}
	t.Logf("pods %q: %.1f s", want, time.Since(begin).Seconds())
}

// podsWrite waits until each pod has written into its folder of the host. The machine answers that
// itself. A client that asks the kubelet takes a second of its processors each time, while they
// start guests.
func (l *lab) podsWrite(t *testing.T, names ...string) {
	t.Helper()
	begin := time.Now()
	for _, name := range names {
		if wrong := host.Await(host.CallLimit, func() string {
			if _, err := l.ask(wire.Request{Read: &wire.Read{Path: "/srv/" + name + "/made"}}, longAsk); err != nil {
				return err.Error()
			}
			return ""
		}); wrong != "" {
			t.Fatalf("pod %s has written nothing: %s", name, wrong)
		}
		t.Logf("pod %s runs after %.1f s", name, time.Since(begin).Seconds())
	}
}

// podsEnded waits until no machine runs, and until sandboxes and the kubelet's pods have no folder.
func (l *lab) podsEnded(t *testing.T) {
	t.Helper()
	begin := time.Now()
	if left := host.Await(host.CallLimit, func() string {
		return l.sh(t, "pgrep -l qemu-system || true; "+
			"find /run/cloister/k8s.io /var/lib/kubelet/pods -mindepth 1 -maxdepth 1 2>/dev/null || true")
	}); left != "" {
		t.Errorf("left: %s", left)
	}
	t.Logf("ended: %.1f s", time.Since(begin).Seconds())
}

// readiness reads a kubelet's list of pods.
func readiness(text string) (string, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Labels struct{ Tenant string } }
			Status   struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return "", fmt.Errorf("the kubelet's pods: %w: %s", err, text)
	}
	states := map[string]string{}
	for _, pod := range list.Items {
		states[pod.Metadata.Labels.Tenant] = ""
		for _, c := range pod.Status.Conditions {
			if c.Type == "Ready" {
				states[pod.Metadata.Labels.Tenant] = c.Status
			}
		}
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(states)) {
		all = append(all, name+": "+states[name])
	}
	return strings.Join(all, ", "), nil
}

// podLevel is the level of a pod's QEMU.
func (l *lab) podLevel(t *testing.T, id string) string {
	t.Helper()
	text, _ := l.level(t, id)
	label, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return label.Range.String()
}

// wantVolumes looks at the labels of a pod's volumes and of what is in them: all are at the pod's
// level.
func (l *lab) wantVolumes(t *testing.T, name, level string) {
	t.Helper()
	out := l.sh(t, fmt.Sprintf(`pod=$(dirname $(grep -lx %[1]s /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/disk/made))
cd $pod/../..
stat -c '%%C %%n' kubernetes.io~empty-dir/* kubernetes.io~empty-dir/*/made kubernetes.io~downward-api/info ../etc-hosts
stat -c '%%C %%n' /srv/%[1]s /srv/%[1]s/made
stat -L -c '%%C %%n' kubernetes.io~downward-api/info/labels`, name))
	t.Logf("%s at %s:\n%s", name, level, out)
	if lines := strings.Count(out, "\n"); lines != 9 {
		t.Errorf("%d labels, want those of 9 files", lines)
	}
	for line := range strings.Lines(out) {
		text, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		label, err := labels.Parse(text)
		if err != nil || label.Range.String() != level || label.Type != policy.RootfsType {
			t.Errorf("%s is %s, %v, want %s at %s", path, text, err, policy.RootfsType, level)
		}
	}
}
