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
	"cloister/sys"
)

// proveContainers starts two plain containers and attacks the host and one of them from inside the
// other one. program is this one, which is the only file of theirs. Mounts are made in this mount
// namespace. Nothing is left.
func proveContainers(ctx context.Context, cfg sandbox.Config, program string) (_ prove.Report, err error) {
	folder, err := os.MkdirTemp("", "cloister-bundle-")
	if err != nil {
		return prove.Report{}, err
	}
	// Errors of the cleanup are joined: a run that leaves something behind must not look well.
	defer func() { err = errors.Join(err, sys.RemoveTree(folder)) }()
	// Labels are for a path without links.
	if folder, err = filepath.EvalSymlinks(folder); err != nil {
		return prove.Report{}, err
	}
	var both []*standin.Container
	for _, name := range []string{"from", "peer"} {
		id := "prove-" + strings.ToLower(rand.Text()[:12])
		c, err := standin.NewContainer(ctx, cfg, proveNamespace, id, filepath.Join(folder, name), program, proveVictim)
		if err != nil {
			return prove.Report{}, err
		}
		// In reverse order at the end, also after an error or a signal.
		defer func() { err = errors.Join(err, c.Destroy(ctx)) }()
		both = append(both, c)
	}
	from, peer := both[0], both[1]
	return prove.Run(ctx, prove.Site{
		Class: oci.ClassProcess, MAC: from.MAC(), Layers: from.Layers(), From: from, Peer: peer, PeerFiles: peer.Files(),
		Attacker: []string{from.Program(), proveAttacker}, Victim: []string{peer.Program(), proveVictim},
	})
}
