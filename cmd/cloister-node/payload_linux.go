// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// place copies the payload to a folder of the node that is named after its bytes, and leads the
// links there. A version that was there before stays as it is: sandboxes may run from it. The links
// are changed last, each in one step: at every moment they lead to a whole version.
func (n *node) place() (version string, err error) {
	version, err = digest(n.payload)
	if err != nil {
		return "", err
	}
	target := n.path(folder + "/" + version)
	// The bytes are the same, so nothing has to be copied.
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		if err := n.copyTo(target); err != nil {
			return "", err
		}
		n.say("%s/%s: written", folder, version)
	}
	if err := link(n.path(current), version); err != nil {
		return "", err
	}
	for name, target := range links {
		if err := link(n.path(name), target); err != nil {
			return "", err
		}
	}
	return version, nil
}

// copyTo copies the payload beside its place and moves it there when it is whole. A killed copy
// leaves a folder that begins with a dot; its name is no version's, and it is not used.
func (n *node) copyTo(target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(target), ".new-")
	if err != nil {
		return err
	}
	// After the rename there is nothing to remove.
	defer os.RemoveAll(scratch)
	// MkdirTemp makes it for its owner alone, but programs are run by all users.
	if err := os.Chmod(scratch, 0o755); err != nil {
		return err
	}
	err = each(n.payload, func(name string, mode fs.FileMode) error {
		to := filepath.Join(scratch, name)
		if mode.IsDir() {
			return os.Mkdir(to, 0o755)
		}
		// No file is writable for the group: root obeys no program that others may write.
		return copyFile(filepath.Join(n.payload, name), to, mode.Perm()&0o755)
	})
	if err != nil {
		return err
	}
	return os.Rename(scratch, target)
}

// each calls f for every folder and file below top but top itself, in lexical order. Anything but
// folders and files is an error: a link in the payload could lead anywhere on the node.
func each(top string, f func(name string, mode fs.FileMode) error) error {
	return filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == top {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.IsDir() && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a folder nor a file", path)
		}
		return f(name, info.Mode())
	})
}

// digest names a folder by all that is in it. Names and modes are part of it, so a change of a mode
// is a new version. 16 hexadecimal digits are 64 bits, enough among the few versions of a node.
func digest(top string) (string, error) {
	sum := sha256.New()
	err := each(top, func(name string, mode fs.FileMode) error {
		fmt.Fprintf(sum, "%q %v\n", name, mode)
		if mode.IsDir() {
			return nil
		}
		f, err := os.Open(filepath.Join(top, name))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(sum, f)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("payload: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// copyFile copies one file. EXCL: the folder is new. Synced, since the rename after it makes the
// version valid.
func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(mode), out.Sync(), out.Close())
}

// link makes name a symbolic link to target, in one step where there was one. A symlink cannot be
// replaced by symlink(2), hence the second name and the rename.
func link(name, target string) error {
	if leads, err := os.Readlink(name); err == nil && leads == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(name), ".new-"+filepath.Base(name))
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, name)
}

// configSuffix ends the names of the installer's files in the folder of settings. The suffix keeps
// files of the administrator's apart from those that the installer may remove.
const configSuffix = ".cluster.toml"

// configure writes what this node needs, and the cluster's own settings, into the node's config.
// Settings that the cluster has no longer go. Files are read in the order of their names: 10 is the
// node's own, 50 the cluster's, and an administrator's may come after both.
func (n *node) configure() error {
	dir := n.path(configs)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mac := "auto"
	if n.selinux() { // a boot without it starts no sandbox then, instead of one with less
		mac = "selinux"
	}
	own := fmt.Sprintf("# Written by cloister-node.\n[guest]\nimage = %q\n\n[labels]\nmac = %q\n", current+"/guest/small", mac)
	want := map[string][]byte{"10-node" + configSuffix: []byte(own)}
	settings, err := filepath.Glob(filepath.Join(n.settings, "*.toml"))
	if err != nil {
		return err
	}
	for _, name := range settings {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		want["50-"+strings.TrimSuffix(filepath.Base(name), ".toml")+configSuffix] = data
	}
	// A setting that was removed from the cluster must not go on to hold on the node.
	there, err := filepath.Glob(filepath.Join(dir, "*"+configSuffix))
	if err != nil {
		return err
	}
	for _, name := range there {
		if _, wanted := want[filepath.Base(name)]; !wanted {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	for name, data := range want {
		if err := replace(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a file as a whole. The config is read by each start of a sandbox, so half a file
// must never be there.
func replace(name string, data []byte) error {
	next := filepath.Join(filepath.Dir(name), ".new-"+filepath.Base(name))
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, name)
}

// prune takes away versions from which no process runs. A version in use is one that a process was
// started from; a sandbox keeps its shim's version for its life. /proc is the node's, since the pod
// shares its pid namespace.
func (n *node) prune(version string) error {
	used := map[string]bool{version: true}
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	for _, program := range programs {
		// Programs of other folders do not matter. One that was deleted has " (deleted)" behind its
		// name.
		if name, err := os.Readlink(program); err == nil && strings.HasPrefix(name, folder+"/") {
			first, _, _ := strings.Cut(strings.TrimPrefix(name, folder+"/"), "/")
			used[first] = true
		}
	}
	entries, err := os.ReadDir(n.path(folder))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		// The link current is no folder, and stays.
		if !entry.IsDir() || used[entry.Name()] {
			continue
		}
		if err := os.RemoveAll(n.path(folder + "/" + entry.Name())); err != nil {
			return err
		}
		n.say("%s/%s: removed, nothing runs from it", folder, entry.Name())
	}
	return nil
}
