// SPDX-License-Identifier: Apache-2.0

// Command write writes the bills of materials and the provenance of the archives in a folder.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloister/tests/release"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run() error {
	var r release.Release
	flag.StringVar(&r.Version, "version", "", "version of the release")
	flag.StringVar(&r.Commit, "commit", "", "commit that it is built from")
	flag.StringVar(&r.Flavour, "flavour", "small", "flavour of the guest image")
	flag.StringVar(&r.Builder, "builder", "urn:cloister:builder:unnamed", "URI of who builds it")
	epoch := flag.Int64("epoch", 0, "time of the commit, in seconds since 1970")
	build := flag.String("build", "build", "folder of the programs and the guest image")
	out := flag.String("out", "", "folder of the archives, where the files are written")
	flag.Parse()
	if r.Version == "" || r.Commit == "" || *epoch == 0 || *out == "" {
		return errors.New("want -version, -commit, -epoch and -out")
	}
	r.Time = time.Unix(*epoch, 0)
	licences, err := release.Notice("NOTICE")
	if err != nil {
		return err
	}
	products, err := release.Programs(*build, licences, "cloister", "containerd-shim-cloister-v2", "cloister-oci", "cloister-agent")
	if err != nil {
		return err
	}
	guest, err := release.Guest(filepath.Join(*build, "guest", r.Flavour))
	if err != nil {
		return err
	}
	products = append(products, guest)
	base := filepath.Join(*out, "cloister-"+r.Version)
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{base + ".cdx.json", func(w io.Writer) error { return release.WriteCycloneDX(w, r, products) }},
		{base + ".spdx.json", func(w io.Writer) error { return release.WriteSPDX(w, r, products) }},
		{base + ".intoto.json", func(w io.Writer) error { return provenance(w, r, *out) }},
	} {
		if err := create(f.name, f.write); err != nil {
			return err
		}
	}
	return nil
}

// provenance is about all that lies in the folder, its own file left out.
func provenance(w io.Writer, r release.Release, folder string) error {
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, ".intoto.json") })
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(a, b) })
	return release.WriteProvenance(w, r, files)
}

func create(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
