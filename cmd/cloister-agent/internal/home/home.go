// SPDX-License-Identifier: Apache-2.0

package home

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	variable = "HOME="
	none     = "/" // of a user who has no folder
	passwd   = "/etc/passwd"
)

// MaxPasswd bounds an /etc/passwd that is read. An image may have a file as large as it likes; a
// larger one counts as none.
const MaxPasswd = 1 << 20

// Reader gives the content of a file of a container: rel is below root, and so is
// every symbolic link on the way. It must not leave root: the file system is the image's, and its
// links may point anywhere.
type Reader func(root, rel string) ([]byte, error)

// InSpec returns the config.json with HOME in the environment of its process. The
// container's root file system is mounted at root; what the configuration binds over
// /etc/passwd counts. A config that has a HOME is returned as it came, byte for byte.
func InSpec(config []byte, root string, read Reader) ([]byte, error) {
	var spec specs.Spec
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, fmt.Errorf("read spec: %w", err)
	}
	// No process: the container cannot run, and crun says so better.
	if spec.Process == nil || isSet(spec.Process.Env) {
		return config, nil
	}
	spec.Process.Env = with(spec.Process.Env, func() []byte {
		root, rel, ok := place(root, spec.Mounts)
		if !ok {
			return nil
		}
		users, _ := read(root, rel) // without the file nobody has a folder
		return users
	}, spec.Process.User.UID)
	return json.Marshal(&spec)
}

// InProcess returns the process of an exec, as JSON, with HOME in its environment.
// root is that of the running container. The process's root is looked at, and not the image's: a
// container may have changed its /etc/passwd since.
func InProcess(process []byte, root string, read Reader) ([]byte, error) {
	var p specs.Process
	if err := json.Unmarshal(process, &p); err != nil {
		return nil, fmt.Errorf("read process: %w", err)
	}
	if isSet(p.Env) {
		return process, nil
	}
	p.Env = with(p.Env, func() []byte {
		// An unreadable file counts as an absent one, as for runc: a process without a folder can
		// still run.
		users, _ := read(root, strings.TrimPrefix(passwd, "/"))
		return users
	}, p.User.UID)
	return json.Marshal(&p)
}

// isSet says that the environment has a HOME. An empty one counts as none.
func isSet(env []string) bool {
	return slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, variable) && v != variable })
}

// with puts HOME last, and takes an empty one away: a second one of the same name would leave it to
// the program which counts.
func with(env []string, users func() []byte, uid uint32) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return v == variable })
	return append(env, variable+of(users(), uid))
}

// of finds the user's folder among the lines of passwd(5). Malformed lines are skipped: other
// programs in the container do so too.
func of(users []byte, uid uint32) string {
	const uidField, homeField = 2, 5
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range bytes.Lines(users) {
		fields := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(fields) > homeField && fields[uidField] == want && !strings.HasPrefix(fields[0], "#") && fields[homeField] != "" {
			return fields[homeField]
		}
	}
	return none
}

// place is where /etc/passwd lies: in the root file system, or in the last bind over
// it or a folder above it. ok is false where a new file system hides it. The last mount that covers
// the path wins, so the list is walked backwards.
func place(root string, mounts []specs.Mount) (_, rel string, ok bool) {
	for _, m := range slices.Backward(mounts) {
		switch rest, over := strings.CutPrefix(passwd, path.Clean(m.Destination)); {
		case !over || rest != "" && rest[0] != '/':
			continue
		case m.Type != "bind":
			return "", "", false
		case rest == "":
			return path.Dir(m.Source), path.Base(m.Source), true
		default:
			return m.Source, rest[1:], true
		}
	}
	return root, strings.TrimPrefix(passwd, "/"), true
}
