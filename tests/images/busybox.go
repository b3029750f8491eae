// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// Names under which the images are known.
const (
	BusyboxName      = "docker.io/cloister/busybox:latest"
	SuiteBusyboxName = "ghcr.io/containerd/busybox:1.36"
	VolumeCopyUpName = "ghcr.io/containerd/volume-copy-up:2.2"
	VolumeOwnerName  = "ghcr.io/containerd/volume-ownership:2.1"
	PauseName        = "registry.k8s.io/pause:3.10.2"
	AlpineName       = "docker.io/cloister/alpine:latest" // has what a suite looks for in Alpine's image
)

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`

const group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
www-data:x:33:
operator:x:37:
users:x:100:
nobody:x:65534:
`

// Busybox makes an image of the static busybox at program: each applet a hard link, a few users,
// and beside it a copy that is setuid root (/bin/busybox-suid).
func Busybox(ctx context.Context, program string) (v1.Image, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	list, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", program, err)
	}
	entries := folders("bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var",
		"var/spool", "var/spool/mail", "var/www")
	entries = append(entries,
		Entry{Name: "root", Mode: fs.ModeDir | 0o700},
		Entry{Name: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		Entry{Name: "etc/passwd", Mode: 0o644, Data: []byte(passwd)},
		Entry{Name: "etc/group", Mode: 0o644, Data: []byte(group)},
		Entry{Name: "etc/shadow", Mode: 0o640, Data: []byte("root:*:::::::\n")},
		Entry{Name: "bin/busybox", Mode: 0o755, Data: data},
		Entry{Name: "bin/busybox-suid", Mode: fs.ModeSetuid | 0o755, Data: data},
	)
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			entries = append(entries, Entry{Name: "bin/" + applet, Mode: 0o755, Hard: "bin/busybox"})
		}
	}
	return New(empty.Image, entries, v1.Config{Cmd: []string{"sh"}, Env: []string{path}})
}

// New puts entries as one layer upon base, with config.
func New(base v1.Image, entries []Entry, config v1.Config) (v1.Image, error) {
	layer, err := Layer(entries)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = "amd64", "linux", config
	file.History = nil
	for range file.RootFS.DiffIDs {
		file.History = append(file.History, v1.History{CreatedBy: "cloister tests"})
	}
	return mutate.ConfigFile(image, file)
}

// Set makes every image by name out of the static busybox at program.
func Set(ctx context.Context, program string) (map[string]v1.Image, error) {
	busybox, err := Busybox(ctx, program)
	if err != nil {
		return nil, err
	}
	env := []string{path}
	copyUp := []Entry{
		{Name: "test_dir", Mode: fs.ModeDir | 0o755},
		{Name: "test_dir/test_file", Mode: 0o644, Data: []byte("test_content\n")},
		{Name: "C:", Mode: fs.ModeDir | 0o755},
		{Name: "C:/weird_test_dir", Mode: fs.ModeDir | 0o755},
		{Name: "C:/weird_test_dir/weird_test_file", Mode: 0o644, Data: []byte("test_content\n")},
		{Name: ":colon_prefixed", Mode: fs.ModeDir | 0o755},
		{Name: ":colon_prefixed/colon_prefixed_file", Mode: 0o644, Data: []byte("test_content\n")},
	}
	volumeCopyUp, err := New(busybox, copyUp, v1.Config{
		Cmd: []string{"sh"}, Env: env,
		Volumes: map[string]struct{}{"/test_dir": {}, "C:/weird_test_dir": {}, "/:colon_prefixed": {}},
	})
	if err != nil {
		return nil, err
	}
	volumeOwner, err := New(busybox, []Entry{{Name: "test_dir", Mode: fs.ModeDir | 0o755, UID: 65534, GID: 65534}}, v1.Config{
		Cmd: []string{"sh"}, Env: env, Volumes: map[string]struct{}{"/test_dir": {}},
	})
	if err != nil {
		return nil, err
	}
	alpine, err := New(busybox, []Entry{
		{Name: "etc/os-release", Mode: 0o644, Data: []byte("NAME=\"Alpine Linux\"\n")},
		{Name: "bin/sh", Mode: fs.ModeSymlink, Link: "/bin/busybox"},
	}, v1.Config{Cmd: []string{"sh"}, Env: env})
	if err != nil {
		return nil, err
	}
	// A pod's first container under runc has only to stay.
	pause, err := New(busybox, []Entry{{Name: "pause", Mode: 0o755, Data: []byte("#!/bin/sh\nexec sleep 2147483647\n")}},
		v1.Config{Entrypoint: []string{"/bin/sleep", "2147483647"}, Env: env})
	if err != nil {
		return nil, err
	}
	return map[string]v1.Image{
		BusyboxName: busybox, SuiteBusyboxName: busybox, PauseName: pause,
		AlpineName: alpine, VolumeCopyUpName: volumeCopyUp, VolumeOwnerName: volumeOwner,
	}, nil
}
