// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"cloister/tests/testenv"
)

// hasPackages tells whether the distribution has Debian's packages.
func hasPackages() bool {
	_, err := exec.LookPath("apt-get")
	return err == nil
}

// printed is a line of apt-get --print-uris: the address, the file's name, its size and its digest.
var printed = regexp.MustCompile(`(?m)^'[^']*' (\S+)\.deb \d+ SHA256:([0-9a-f]{64})$`)

// archive gives the name and the digest of a package's file, as the lists have them.
func archive(ctx context.Context, name string) (file, digest string, err error) {
	out, err := exec.CommandContext(ctx, "apt-get", "download", "--print-uris", name).Output()
	if err != nil {
		return "", "", fmt.Errorf("apt-get download --print-uris %s: %w", name, err)
	}
	match := printed.FindSubmatch(out)
	if match == nil {
		return "", "", fmt.Errorf("apt-get download --print-uris %s: %q, want a line with a SHA256", name, out)
	}
	return string(match[1]), string(match[2]), nil
}

// packageDir is the folder in the cache of the package's file that the distribution has now. Where
// it cannot tell, it is one that no build makes.
func packageDir(set Set, name string) string {
	file, digest, err := archive(context.Background(), name)
	if err != nil {
		file, digest = "none", "000000000000"
	}
	return filepath.Join(testenv.Cache(), "clients", string(set)+"-"+file+"-"+digest[:12])
}

// unpack puts the programs of a package into bin. Nothing is installed: a service of the package
// would start.
func unpack(ctx context.Context, out io.Writer, name, scratch, bin string) error {
	for _, args := range [][]string{
		{"apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name},
		{"sh", "-c", "dpkg-deb -x ./*.deb root"},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = scratch, out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w", args, err)
		}
	}
	var errs []error
	for _, folder := range []string{"usr/bin", "usr/sbin"} {
		programs, err := filepath.Glob(filepath.Join(scratch, "root", folder, "*"))
		errs = append(errs, err)
		for _, program := range programs {
			errs = append(errs, os.Rename(program, filepath.Join(bin, filepath.Base(program))))
		}
	}
	return errors.Join(errs...)
}
