// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"

	"cloister/oci"
	"cloister/sandbox/confine"
)

// readWorkload reads the engine's config.json. oci.MaxBytes bounds what an engine can have the shim
// parse.
func readWorkload(bundle string, opts oci.Options) (*oci.Workload, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w: %w", err, errdefs.ErrNotFound)
	}
	defer f.Close() // read only
	data, err := io.ReadAll(io.LimitReader(f, oci.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	return oci.ParseContainer(data, opts)
}

// checkProfile refuses an AppArmor profile that somebody chose for a container of a host where its
// sandbox has one of its own. To run without any is a wish like label=disable: the host's
// configuration may have such containers confined like all others.
func checkProfile(chosen confine.MAC, c confine.Config, name string) error {
	switch {
	case chosen != confine.AppArmor, name == "", name == "unconfined" && c.EngineDisable == "confine":
		return nil
	case name == "unconfined":
		return fmt.Errorf("process.apparmorProfile = %q: plain containers of this host run in their sandbox's own profile: leave it out "+
			"(Docker's --privileged asks for it), or have it confined all the same: engine_disable = \"confine\" under [labels]: %w",
			name, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("process.apparmorProfile = %q: plain containers of this host run in their sandbox's own profile: leave it out, "+
		"or set mac = \"none\" in a config that the handler of plain containers alone names: %w", name, errdefs.ErrInvalidArgument)
}

// checkMapped refuses mounts with owners of their own if the OCI runtime says that it cannot make
// them, or is too old to say it: it would drop the mappings. The features are asked of the very
// program that will run, since the field is ignored and not refused by older ones.
func checkMapped(ctx context.Context, program string, fields []string) error {
	if len(fields) == 0 {
		return nil
	}
	known, err := (&runc.Runc{Command: program}).Features(ctx)
	if err == nil && known.Linux != nil && known.Linux.MountExtensions != nil {
		if ids := known.Linux.MountExtensions.IDMap; ids != nil && ids.Enabled != nil && *ids.Enabled {
			return nil
		}
	}
	return fmt.Errorf("%s: the OCI runtime %s does not map the owners of mounts: use runc 1.2 or a crun whose features name idmap, "+
		"or class vm: %w", strings.Join(fields, ", "), program, errdefs.ErrInvalidArgument)
}
