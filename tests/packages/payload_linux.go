// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/cache"
	"cloister/tests/images"
)

// earlier is the commit whose packages are installed first: the first one that had packages, until
// there is a release. Its version is below that of each later commit. Its agent speaks the guest
// protocol of now: when that changes, take a later commit.
const (
	earlier        = "259414d42bf17b5170a19d1a3b2bc89c8522eff1"
	earlierVersion = "0.0.0-1-gearlier"
)

// makeEarlier gives the folder of the earlier packages, built from that commit's own tree.
func makeEarlier(ctx context.Context, tree, folder string) (string, error) {
	made := filepath.Join(folder, "packages", "earlier-"+earlier)
	return made, cache.Make(made, func() error {
		work, err := os.MkdirTemp(filepath.Dir(made), ".earlier-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(work) }()
		build := fmt.Sprintf(`git -C %q archive %s | tar -x -C .
export CLOISTER_VERSION=%s SOURCE_DATE_EPOCH=1700000000
.ci/build
build/cloister guest build --quiet --kernel=small --output=build/guest/small
.ci/packages`, tree, earlier, earlierVersion)
		if err := tool(ctx, work, "bash", "-eo", "pipefail", "-c", build); err != nil {
			return fmt.Errorf("packages of commit %s, which needs the whole history of git: %w", earlier, err)
		}
		return os.Rename(filepath.Join(work, "build", "packages"), made)
	})
}

// makePayload packs what the machine is given: life.sh, the program that it keeps a guest with, the
// packages, an image.
func makePayload(ctx context.Context, work, tree, old string) (string, error) {
	dir := filepath.Join(work, "payload")
	for _, folder := range []string{"old", "new"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			return "", err
		}
	}
	copies := fmt.Sprintf(`cp %q/cloister_*.deb %q/cloister-guest_*.deb %q/old/
cp build/packages/cloister_*.deb build/packages/cloister-guest_*.deb %q/new/
cp tests/packages/life.sh %q/
CGO_ENABLED=0 go build -trimpath -o %q/ ./tests/hostmachine/holdguest`, old, old, dir, dir, dir, dir)
	if err := tool(ctx, tree, "sh", "-ec", copies); err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	image, err := images.Busybox(ctx, busybox)
	if err != nil {
		return "", err
	}
	if err := images.Save(filepath.Join(dir, "image.tar"), map[string]v1.Image{images.BusyboxName: image}); err != nil {
		return "", err
	}
	payload := filepath.Join(work, "payload.tar")
	return payload, tool(ctx, "", "tar", "-cf", payload, "-C", dir, ".")
}
