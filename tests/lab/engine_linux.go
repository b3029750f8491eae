// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/labels"
	"cloister/labels/policy"
	"cloister/tests/images"
	"cloister/tests/lab/wire"
)

// engineFiles are the built programs, the guest's image and an image of containers, for the second
// disk.
func engineFiles(ctx context.Context, m mac, work, build, guest, busybox string) ([]file, error) {
	all, err := images.Set(ctx, busybox)
	if err != nil {
		return nil, err
	}
	if all[images.BusyboxName], err = withProbe(ctx, work, all[images.BusyboxName]); err != nil {
		return nil, err
	}
	archive := filepath.Join(work, "images.tar")
	if err := images.Save(archive, map[string]v1.Image{
		images.BusyboxName: all[images.BusyboxName],
		images.PauseName:   all[images.PauseName],
	}); err != nil {
		return nil, err
	}
	settings := filepath.Join(work, "cloister.toml")
	if err := os.WriteFile(settings, []byte(labConfig(m, "", "", boxTables(m, "off"))), 0o644); err != nil {
		return nil, err
	}
	held := filepath.Join(work, "held")
	if err := tool(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-tags", "crashtest,grpcnotrace",
		"-o", held, "cloister/cmd/containerd-shim-cloister-v2"); err != nil {
		return nil, err
	}
	return []file{
		{"bin/containerd-shim-cloister-v2", filepath.Join(build, "containerd-shim-cloister-v2"), policy.ShimExecType},
		{"bin/containerd-shim-held-v2", held, policy.ShimExecType},
		{"bin/cloister", filepath.Join(build, "cloister"), "bin_t"},
		{"bin/cloister-oci", filepath.Join(build, "cloister-oci"), "bin_t"},
		{"bin/cloister-shim-domain", filepath.Join(build, "cloister"), policy.ShimExecType},
		{"guest/kernel", filepath.Join(guest, "kernel"), policy.ContentType},
		{"guest/initrd", filepath.Join(guest, "initrd"), policy.ContentType},
		{"guest/manifest.json", filepath.Join(guest, "manifest.json"), policy.ContentType},
		{"images.tar", archive, "usr_t"},
		{"cloister.toml", settings, "etc_t"},
	}, nil
}

// withProbe adds to an image what speaks to sockets.
func withProbe(ctx context.Context, work string, image v1.Image) (v1.Image, error) {
	program := filepath.Join(work, "files-probe")
	if err := tool(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program,
		"cloister/tests/files/probe"); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	return images.New(image, []images.Entry{{Name: "bin/probe", Mode: 0o755, Data: data}}, config.Config)
}

// heldFolder is where the shim that can be held is told at which step.
const heldFolder = "/run/lab/held"

// labConfig gives guests time: they run under KVM that is emulated. What is given goes before all
// tables, into the one of labels, and behind all. Sandboxes start cold unless rest says otherwise:
// a builder in the background is one more machine in a machine, beside what is looked at.
func labConfig(m mac, top, label, rest string) string {
	if !strings.Contains(rest, "[template]") {
		rest += "[template]\nmode = \"off\"\n"
	}
	return top + "[guest]\nimage = \"/lab/guest\"\n[labels]\nmac = \"" + string(m) + "\"\n" + label + "[timeouts]\nboot = \"5m\"\n" + rest
}

// boxTables are what the lab's own sandboxes have more. mode is of templates.
func boxTables(m mac, mode string) string {
	tables := "[debug]\nshell = \"/bin/busybox\"\n[template]\nmode = \"" + mode + "\"\n"
	if m == selinuxMAC { // its matrix attacks these sandboxes from one user, so that the policy alone is in the way
		tables += "[jail]\ndisable = [\"users\"]\n"
	}
	return tables
}

// engine is a containerd in the machine that runs the shim under test.
type engine struct {
	m *machine
	// pid is containerd's.
	pid int
}

func labEnv() []string {
	return []string{
		"PATH=/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"CLOISTER_CONFIG=/lab/cloister.toml", "CLOISTER_CRASHTEST=" + heldFolder,
	}
}

// restoreLabels does what restorecon does when the module is installed, and makes the folders that
// tests use.
func restoreLabels(m *machine) error {
	kind, err := chosenPolicy()
	if err != nil {
		return err
	}
	first, second := engineTypes(kind)
	return m.write(
		wire.Write{Path: "/run/containerd", Folder: true, Context: object("initrc_runtime_t", "s0")},
		wire.Write{Path: "/usr/bin/containerd", Label: true, Context: object(first, "s0")},
		wire.Write{Path: "/lab/two/containerd", Label: true, Context: object(second, "s0")},
		wire.Write{Path: "/usr/lib/qemu/virtiofsd", Label: true, Context: object(policy.VirtiofsdExecType, "s0")},
		wire.Write{Path: "/var/lib/cloister", Folder: true, Context: object(policy.VarLibType, "s0")},
		wire.Write{Path: "/run/cloister", Folder: true, Context: object(policy.RunType, "s0")},
		wire.Write{Path: heldFolder, Folder: true, Context: object("var_run_t", "s0")},
	)
}

// engineScore is the oom_score_adj of engines that systemd starts.
const engineScore = -999

// startEngine starts containerd in an environment and gives it an image.
func startEngine(m *machine, env []string) (*engine, error) {
	answer, err := m.run(wire.Run{Argv: []string{"/usr/bin/containerd", "--log-level", "info"}, Env: env, Stay: true})
	if err != nil {
		return nil, err
	}
	e := &engine{m: m, pid: answer.PID}
	if err := e.likeUnit(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if _, err = e.ctr("version"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
	_, err = e.ctr("images", "import", "/lab/images.tar")
	return e, err
}

// likeUnit gives containerd the score that its unit of systemd has. All that it starts inherits it.
func (e *engine) likeUnit() error {
	script := fmt.Sprintf("echo %d >/proc/%d/oom_score_adj", engineScore, e.pid)
	answer, err := e.m.run(wire.Run{Argv: []string{"/bin/sh", "-c", script}})
	if err == nil && answer.Exit != 0 {
		err = fmt.Errorf("oom_score_adj of containerd: exit %d: %s; %s", answer.Exit, answer.Out, brief(denials(answer.Audit)))
	}
	return err
}

// spinning is what the shim says of a guest that answers nothing for two minutes while it takes all
// of a processor.
var spinning = regexp.MustCompile(`does not answer: .*CPUs are running and used (\d+ms) of CPU time in (\d+ms)`)

// ctr runs containerd's client and returns what it printed. Where a guest spins, the machine is
// lost: its emulated virtualization hangs a machine in it now and then.
func (e *engine) ctr(args ...string) (string, error) {
	answer, err := e.m.run(wire.Run{Argv: append([]string{"/usr/bin/ctr"}, args...), Env: labEnv(), Seconds: 400})
	if err != nil {
		return "", err
	}
	if found := spinning.FindStringSubmatch(answer.Out); found != nil && found[1] == found[2] {
		return "", e.m.lose(fmt.Errorf("a guest in it spins: %.300s", answer.Out))
	}
	if answer.Exit != 0 {
		return answer.Out, fmt.Errorf("ctr %s: exit %d: %s; %s", strings.Join(args, " "), answer.Exit,
			strings.TrimSpace(answer.Out), brief(denials(answer.Audit)))
	}
	return answer.Out, nil
}

// run starts a container in a sandbox of its own, that sleeps.
func (e *engine) run(id string, flags ...string) error {
	args := append([]string{"run", "--detach", "--runtime", "io.containerd.cloister.v2"}, flags...)
	_, err := e.ctr(append(args, images.BusyboxName, id, "sleep", "1500")...)
	return err
}

// remove ends it.
func (e *engine) remove(id string) error {
	_, err := e.ctr("task", "kill", "--signal", "KILL", id)
	for deadline := time.Now().Add(time.Minute); ; {
		_, failed := e.ctr("task", "delete", "--force", id)
		if failed == nil {
			break
		}
		if time.Now().After(deadline) {
			return errors.Join(err, failed)
		}
	}
	_, failed := e.ctr("container", "delete", id)
	return errors.Join(err, failed)
}

// running is a process with its label.
type running struct {
	label, command string
	pid            int
}

// processes lists the machine's processes whose label has a word in it.
func (e *engine) processes(word string) ([]running, error) {
	answer, err := e.m.run(wire.Run{Argv: []string{"/usr/bin/ps", "-eo", "pid=,label=,comm="}})
	if err != nil {
		return nil, err
	}
	var list []running
	for line := range strings.Lines(answer.Out) {
		var r running
		if _, err := fmt.Sscan(line, &r.pid, &r.label, &r.command); err == nil && strings.Contains(r.label, word) {
			list = append(list, r)
		}
	}
	return list, nil
}

// ids are the containers that run during the matrix, each in a sandbox of its own.
func ids() []string { return []string{"first", "second"} }

// sandboxes makes parties of the running sandboxes.
func (w *world) sandboxes(e *engine) error {
	list, err := e.processes("cloister_")
	if err != nil {
		return err
	}
	for _, id := range ids() {
		record, err := w.m.ask(wire.Request{Read: &wire.Read{Path: "/run/containerd/io.containerd.runtime.v2.task/default/" +
			id + "/address"}}, longAsk)
		if err != nil {
			return err
		}
		words := map[string]string{
			"dir":         "/run/cloister/default/" + id,
			"shim.socket": strings.TrimPrefix(strings.TrimSpace(record.Out), "unix://"),
		}
		mine, err := w.owner(id, list)
		if err != nil {
			return err
		}
		for name, r := range mine {
			words[name+".pid"] = strconv.Itoa(r.pid)
		}
		label, err := labels.Parse(mine["qemu"].label)
		if err != nil {
			return err
		}
		if words["qemu.memfd"], err = w.memory(mine["qemu"].pid); err != nil {
			return err
		}
		w.words[id], w.levels[id] = words, label.Range.String()
	}
	return nil
}

// owner finds a sandbox's shim by its arguments, and the shim's children.
func (w *world) owner(id string, list []running) (map[string]running, error) {
	mine := map[string]running{}
	shim := 0
	for _, r := range list {
		text, err := w.m.ask(wire.Request{Read: &wire.Read{Path: fmt.Sprintf("/proc/%d/cmdline", r.pid)}}, longAsk)
		if err != nil {
			continue // it has ended since
		}
		if r.command == "containerd-shim" && slices.Contains(strings.Split(text.Out, "\x00"), id) {
			mine["shim"], shim = r, r.pid
		}
	}
	for _, r := range list {
		status, err := w.m.ask(wire.Request{Read: &wire.Read{Path: fmt.Sprintf("/proc/%d/status", r.pid)}}, longAsk)
		if err != nil || !strings.Contains(status.Out, fmt.Sprintf("\nPPid:\t%d\n", shim)) {
			continue
		}
		switch {
		case strings.Contains(r.label, ":"+policy.QEMUType+":"):
			mine["qemu"] = r
		case strings.Contains(r.label, ":"+policy.VirtiofsdType+":"):
			mine["virtiofsd"] = r
		}
	}
	if len(mine) != 3 {
		return nil, fmt.Errorf("processes of %s: %v, want shim, QEMU and file server", id, mine)
	}
	return mine, nil
}

// memory finds the descriptor of the guest's memory.
func (w *world) memory(pid int) (string, error) {
	answer, err := w.m.run(wire.Run{Argv: []string{"/usr/bin/ls", "-l", fmt.Sprintf("/proc/%d/fd", pid)}})
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(answer.Out) {
		if before, _, found := strings.Cut(line, " -> /memfd:"); found {
			fields := strings.Fields(before)
			return fields[len(fields)-1], nil
		}
	}
	return "", fmt.Errorf("process %d has no memfd: %s", pid, answer.Out)
}
