// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"path/filepath"
)

// The packages of this commit and those of the next version, on the second disk.
const (
	packagesNow  = "/lab/packages/now"
	packagesNext = "/lab/packages/next"
)

// repack makes the next version of a .deb: its number is higher, it depends on the next version of
// the others, and it has the next version of the command line. Packing it quickly is enough.
const repack = `dpkg-deb -R "$1" "$3/tree"
sed -i -e 's/^Version: .*/&.1/' -e 's/ (= \([^)]*\))/ (= \1.1)/g' "$3/tree/DEBIAN/control"
[ ! -e "$3/tree/usr/bin/cloister" ] || cp "$2" "$3/tree/usr/bin/cloister"
sed -i '/^$/d' "$3/tree/DEBIAN/conffiles" 2>/dev/null || true
dpkg-deb --root-owner-group -Zgzip -z1 -b "$3/tree" "$3/next.deb"
rm -r "$3/tree"`

// packageFiles are the .debs of this commit, made as `make packages` makes them, and of the next
// version with its command line: next is that program.
func packageFiles(ctx context.Context, work, next string) ([]file, error) {
	if err := tool(ctx, "../../.ci/packages"); err != nil {
		return nil, err
	}
	var list []file
	for _, name := range []string{"cloister", "cloister-guest", "cloister-selinux"} {
		found, err := filepath.Glob("../../build/packages/" + name + "_*.deb")
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("packages of the name %s: %q, want one: %w", name, found, err)
		}
		dir := filepath.Join(work, "next-"+name)
		if err := tool(ctx, "mkdir", dir); err != nil {
			return nil, err
		}
		if err := tool(ctx, "sh", "-ec", repack, "sh", found[0], next, dir); err != nil {
			return nil, err
		}
		list = append(list,
			file{"packages/now/" + name + ".deb", found[0], "usr_t"},
			file{"packages/next/" + name + ".deb", filepath.Join(dir, "next.deb"), "usr_t"})
	}
	return list, nil
}
