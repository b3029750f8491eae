// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"context"
	"strings"
)

// rpmPackage describes the RPM package a file of the host comes from. Without one it describes the
// file itself, by the given name and version. It never fails: a package's name is for the manifest
// alone.
func rpmPackage(ctx context.Context, file, name, version string) Package {
	none := Package{Kind: "file", Name: name, Version: version, Licence: unknown}
	if _, err := findTool("rpm"); err != nil {
		return none
	}
	out, err := command{name: "rpm", args: []string{
		"-qf", "--qf", `%{NAME}\t%{VERSION}-%{RELEASE}\t%{LICENSE}\n`, file,
	}}.output(ctx)
	if err != nil {
		return none
	}
	first, _, _ := strings.Cut(string(out), "\n")
	words := strings.Split(first, "\t")
	if len(words) != 3 {
		return none
	}
	return Package{Kind: "rpm", Name: words[0], Version: words[1], Licence: words[2]}
}
