// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"cloister/oci"
	"cloister/sandbox"
	"cloister/sandbox/prove"
	"cloister/sandbox/standin"
	"cloister/sandbox/statedir"
	"cloister/sys"
)

// proveNamespace is the namespace of the sandboxes that prove starts. Other sandboxes' levels and
// files are never the target: the victim is one of the two.
const proveNamespace = "cloister-prove"

// proveSpec is their workload, which is never started: its root file system is an empty folder. No
// image is needed: the layers are around QEMU and virtiofsd, and hold without a workload.
const proveSpec = `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"cwd":"/","args":["/none"]},
"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"network"}]}}`

// proveFrom attacks from sandboxes of the class that the config names, which program stands for.
func proveFrom(ctx context.Context, cfg sandbox.Config, program string) (prove.Report, error) {
	if cfg.Class == oci.ClassProcess {
		return proveContainers(ctx, cfg, program)
	}
	return proveMachines(ctx, cfg, program)
}

// proveMachines starts two sandboxes and attacks the host and one of them from the place of the
// other one's processes, for which program stands. Mounts are made in this mount namespace. Nothing
// is left. Both sandboxes are real ones: identity, jail and labels are those of every start. The
// attacker runs as their QEMU or virtiofsd would.
func proveMachines(ctx context.Context, cfg sandbox.Config, program string) (_ prove.Report, err error) {
	// The path that Landlock and labels are about must be the program's own, without links.
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return prove.Report{}, err
	}
	// The start then admits this program as an attacker: see sandbox/standin.
	cfg.Attacker = program
	folder, err := os.MkdirTemp("", "cloister-bundle-")
	if err != nil {
		return prove.Report{}, err
	}
	// Errors of the cleanup are joined: a run that leaves something behind must not look well.
	defer func() { err = errors.Join(err, sys.RemoveTree(folder)) }()
	disguises, err := standin.Disguise(cfg, program, folder)
	if err != nil {
		return prove.Report{}, err
	}
	var places []standin.Place
	for _, name := range []string{"from", "peer"} {
		s, err := proveSandbox(ctx, cfg, filepath.Join(folder, name))
		if err != nil {
			return prove.Report{}, err
		}
		// In reverse order at the end, also after an error or a signal. WithoutCancel: an ended
		// context would leave a guest running.
		defer func() { err = errors.Join(err, s.Destroy(context.WithoutCancel(ctx))) }()
		p, err := s.Place()
		if err != nil {
			return prove.Report{}, err
		}
		defer p.Empty.Close() // O_PATH
		p.Disguises = disguises
		places = append(places, p)
	}
	// The second sandbox is the peer; attacks go for its console, record and files.
	dir := places[1].Dir
	return prove.Run(ctx, prove.Site{
		Class: oci.ClassVM, MAC: places[0].MAC, Layers: places[0].Layers(), From: places[0], Peer: places[1],
		Attacker: []string{program, proveAttacker}, Victim: []string{program, proveVictim},
		PeerFiles: map[string]string{
			"console": filepath.Join(dir.Own(), statedir.Console), "record": dir.Record(), "files": dir.Share() + "/",
		},
	})
}

// proveSandbox starts a sandbox with a container's files, in a bundle that it makes: SELinux labels
// the files for one sandbox alone. On an error nothing is left but the bundle.
func proveSandbox(ctx context.Context, cfg sandbox.Config, bundle string) (*sandbox.Sandbox, error) {
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		return nil, err
	}
	w, err := oci.Parse([]byte(proveSpec), cfg.Workloads)
	if err != nil {
		return nil, err
	}
	// Random, so that two runs at once do not meet.
	id := "prove-" + strings.ToLower(rand.Text()[:12])
	s, err := sandbox.Start(ctx, cfg, sandbox.Request{ID: id, Namespace: proveNamespace, Bundle: bundle, Workload: w})
	if err != nil {
		return nil, err
	}
	if _, err := s.Add(ctx, sandbox.Container{ID: id, Bundle: bundle, Workload: w}); err != nil {
		return nil, errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
	}
	return s, nil
}
