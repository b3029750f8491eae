// SPDX-License-Identifier: Apache-2.0

package home

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const users = "root:x:0:0:root:/root:/bin/sh\n#off:x:7:7::/off:\nshort:x:8:8\nempty:x:9:9:::\n" +
	"user:x:1000:1000::/home/user:/bin/sh\nagain:x:1000:1::/home/again:\nlast:x:5:5::/last:"

func TestOf(t *testing.T) {
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/user", 5: "/last", 7: "/", 8: "/", 9: "/", 100: "/", 1: "/"} {
		if got := of([]byte(users), uid); got != want {
			t.Errorf("of(%d) = %q, want %q", uid, got, want)
		}
	}
}

// files reads like a container whose files are these, by root and path.
func files(f map[[2]string]string) Reader {
	return func(root, rel string) ([]byte, error) {
		text, ok := f[[2]string{root, rel}]
		if !ok {
			return nil, errors.New("no such file")
		}
		return []byte(text), nil
	}
}

func TestInSpec(t *testing.T) {
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination}
	}
	all := files(map[[2]string]string{
		{"/c/rootfs", "etc/passwd"}: users,
		{"/share/m", "1"}:           "user:x:1000:1000::/bound:\n",
		{"/share/etc", "passwd"}:    "user:x:1000:1000::/folder:\n",
	})
	for _, tt := range []struct {
		name   string
		env    []string
		mounts []specs.Mount
		want   []string
	}{
		{"of the image", []string{"A=1"}, nil, []string{"A=1", "HOME=/home/user"}},
		{"given", []string{"HOME=/x", "A=1"}, nil, []string{"HOME=/x", "A=1"}},
		{"given and empty", []string{"HOME=", "A=1"}, nil, []string{"A=1", "HOME=/home/user"}},
		{"bound file", nil, []specs.Mount{bind("/share/m/1", "/etc/passwd")}, []string{"HOME=/bound"}},
		{"bound folder", nil, []specs.Mount{bind("/share/etc", "/etc/")}, []string{"HOME=/folder"}},
		{
			"the last one counts", nil,
			[]specs.Mount{bind("/share/m/1", "/etc/passwd"), bind("/share/etc", "/etc")},
			[]string{"HOME=/folder"},
		},
		{"elsewhere", nil, []specs.Mount{bind("/share/etc", "/etcetera"), bind("/share/m/1", "/etc/passwd2")}, []string{"HOME=/home/user"}},
		{"hidden", nil, []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/etc"}}, []string{"HOME=/"}},
		{"cannot be read", nil, []specs.Mount{bind("/share/none", "/etc/passwd")}, []string{"HOME=/"}},
	} {
		in := specs.Spec{Version: "1.0.2", Process: &specs.Process{Env: tt.env, User: specs.User{UID: 1000}}, Mounts: tt.mounts}
		config, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		out, err := InSpec(config, "/c/rootfs", all)
		if err != nil {
			t.Fatal(err)
		}
		var got specs.Spec
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		in.Process.Env = tt.want
		if diff := cmp.Diff(in, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
	if out, err := InSpec([]byte("{"), "/", all); err == nil {
		t.Errorf("InSpec of no JSON = %s, want an error", out)
	}
}

func TestInProcess(t *testing.T) {
	read := files(map[[2]string]string{{"/proc/5/root", "etc/passwd"}: users})
	for uid, want := range map[uint32]string{0: "HOME=/root", 1234: "HOME=/"} {
		in, err := json.Marshal(specs.Process{Args: []string{"a"}, User: specs.User{UID: uid}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := InProcess(in, "/proc/5/root", read)
		if err != nil {
			t.Fatal(err)
		}
		var got specs.Process
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{want}, got.Env); diff != "" {
			t.Errorf("InProcess of %d (-want +got)\n%s", uid, diff)
		}
	}
}
