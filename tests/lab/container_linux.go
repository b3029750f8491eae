// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// plain runs a program in a plain container of runc's, under the container types and a pair: as
// containerd does with enable_selinux. It shares the host's processes, so that it could attack
// them.
func plain(m *machine, id, level string, argv ...string) (wire.Answer, error) {
	bundle := "/run/lab/" + id
	label := object(policy.ContainerFileType, level)
	spec := specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: argv, Cwd: "/", Env: []string{"PATH=/bin"}, SelinuxLabel: process(policy.ContainerType, level)},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &specs.Linux{MountLabel: label, Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
		}},
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return wire.Answer{}, err
	}
	list := []wire.Write{
		{Path: bundle, Folder: true},
		{Path: bundle + "/config.json", Data: text, Mode: 0o644},
		{Path: bundle + "/rootfs", Folder: true, Context: label},
		{Path: bundle + "/rootfs/bin", Folder: true, Context: label},
		{Path: bundle + "/rootfs/proc", Folder: true, Context: label},
		{Path: bundle + "/rootfs/dev", Folder: true, Context: label},
	}
	if err := m.write(list...); err != nil {
		return wire.Answer{}, err
	}
	for _, from := range []string{"/lab/probe/probe-container", "/bin/busybox"} {
		to := bundle + "/rootfs/bin/" + path.Base(from)
		answer, err := m.run(wire.Run{Argv: []string{"/bin/cp", from, to}})
		if err == nil && answer.Exit != 0 {
			err = fmt.Errorf("copy %s: %s", from, answer.Out)
		}
		if err != nil {
			return answer, err
		}
		if err := m.write(wire.Write{Path: to, Label: true, Context: label}); err != nil {
			return wire.Answer{}, err
		}
	}
	return m.run(wire.Run{Argv: []string{"/usr/sbin/runc", "run", "--bundle", bundle, id}, Env: labEnv(), Seconds: 120})
}
