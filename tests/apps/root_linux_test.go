// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cloister/tests/cache"
)

// recipe is what the root is made of. What changes it makes another root.
type recipe struct {
	suite    string
	packages []string
	finish   string // a script in the new root
}

func debian() recipe {
	return recipe{
		suite: "bookworm",
		packages: []string{
			"postgresql-15", "redis-server", "sqlite3", "git", "nginx-light", "rsync", "gcc", "libc6-dev", "make", "systemd-sysv",
			"iptables", "inotify-tools", "procps", "iproute2", "ca-certificates",
		},
		finish: `
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale /var/lib/postgresql/15
install -d -o postgres -g postgres -m 700 /srv/pg
setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/15/bin/initdb \
	--pgdata=/srv/pg --no-sync --auth=trust --locale=C.UTF-8 >/dev/null
useradd --uid 2000 --create-home user
`,
	}
}

// makeRoot gives the root from the cache, and makes it when it is not there: some minutes, and the
// network.
func makeRoot(ctx context.Context, folder string, r recipe) (string, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", r))
	made := filepath.Join(folder, "apps", "root-"+hex.EncodeToString(sum[:8]))
	return made, cache.Make(made, func() error { return makeRootInto(ctx, r, made) })
}

func makeRootInto(ctx context.Context, r recipe, made string) error {
	if err := os.MkdirAll(filepath.Dir(made), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(made), ".root-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	for _, command := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + strings.Join(r.packages, ","), r.suite, tree},
		{"chroot", tree, "sh", "-ec", r.finish},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command[0], err, out)
		}
	}
	return errors.Join(os.Chmod(tree, 0o755), os.Rename(tree, made))
}
