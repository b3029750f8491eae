// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	optionsapi "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/tests/clients"
	"cloister/tests/testenv"
)

func TestDecideForm(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		sent       bool
		address    string
		maxVersion string
		exe        func(testing.TB) string
		want       form
	}{
		{"2.4", true, "/sock", "2", nil, formResult},
		{"1.6", false, "/sock", "", nil, formPlain},
		{"CRI-O", false, "", "2", func(testing.TB) string { return "/proc/self/exe" }, formPlain},
		{"1.7, or who knows", false, "/sock", "2", func(testing.TB) string { return "/proc/self/exe" }, formJSON2},
		{"no executable", false, "/sock", "2", func(testing.TB) string { return "/nonexistent" }, formJSON2},
		{"Debian's own", false, "/sock", "2", func(tb testing.TB) string {
			tb.Helper()
			return testenv.NeedContainerd(tb) + "/containerd"
		}, formJSON2},
		{"2.0 to 2.2", false, "/sock", "2", func(tb testing.TB) string {
			tb.Helper()
			return filepath.Join(clients.Need(tb, clients.Containerd, "containerd"), "containerd")
		}, formJSON3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			exe := ""
			if tt.exe != nil {
				exe = tt.exe(t)
			}
			if got := decideForm(tt.sent, tt.address, tt.maxVersion, exe); got != tt.want {
				t.Errorf("decideForm(%v, %q, %q, %q) = %v, want %v", tt.sent, tt.address, tt.maxVersion, exe, got, tt.want)
			}
		})
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	const address = "unix:///run/containerd/s/abc"
	for f, want := range map[form]string{
		formPlain: address,
		formJSON2: `{"version":2,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`,
		formJSON3: `{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`,
	} {
		if got, err := f.encode(address, nil); err != nil || string(got) != want {
			t.Errorf("form %v: encode = %q, %v, want %q", f, got, err, want)
		}
	}
	got, err := formResult.encode(address, nil)
	if err != nil {
		t.Fatal(err)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(got, &result); err != nil || result.Version != 3 || result.Address != address || len(result.Extensions) != 1 {
		t.Errorf("formResult: encode = %v, %v: want version 3, the address and the mount capabilities", &result, err)
	}
	// 2.3 and later try protobuf first on every answer: the older forms must not decode as one.
	if err := proto.Unmarshal([]byte(address), &bootapi.BootstrapResult{}); err == nil {
		t.Error("a plain address decodes as BootstrapResult")
	}
	if json.Valid(got) {
		t.Error("a BootstrapResult is valid JSON")
	}
}

func TestParseParams(t *testing.T) {
	t.Parallel()
	marshal := func(m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want bool
	}{
		{"nothing", nil, false},
		{"params", marshal(&bootapi.BootstrapParams{InstanceID: "id", Namespace: "ns"}), true},
		{"another task's params", marshal(&bootapi.BootstrapParams{InstanceID: "other", Namespace: "ns"}), false},
		// Field 1 and 2 of an Any are a string and bytes, as in BootstrapParams.
		{"options of an older containerd", marshal(&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte("x")}), false},
		{"noise", []byte{0xff, 0xff}, false},
	} {
		if got := parseParams(tt.in, "id", "ns"); (got != nil) != tt.want {
			t.Errorf("%s: parseParams = %v, want params: %v", tt.name, got, tt.want)
		}
	}
}

func TestShimCgroup(t *testing.T) {
	t.Parallel()
	pack := func(m proto.Message) *anypb.Any {
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}
	}
	runc := pack(&runcoptions.Options{ShimCgroup: "/shims"})
	old, err := proto.Marshal(runc)
	if err != nil {
		t.Fatal(err)
	}
	extended := &bootapi.BootstrapParams{Extensions: []*bootapi.Extension{{Value: pack(&optionsapi.Options{})}, {Value: runc}}}
	for _, tt := range []struct {
		name   string
		params *bootapi.BootstrapParams
		input  []byte
		want   string
	}{
		{"nothing", nil, nil, ""},
		{"params without options", &bootapi.BootstrapParams{}, nil, ""},
		{"params", extended, nil, "/shims"},
		{"options of an older containerd", nil, old, "/shims"},
	} {
		if got, err := shimCgroup(tt.params, tt.input); got != tt.want || err != nil {
			t.Errorf("%s: shimCgroup = %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	broken := &anypb.Any{TypeUrl: runc.GetTypeUrl(), Value: []byte{0xff}}
	if _, err := shimCgroup(&bootapi.BootstrapParams{Extensions: []*bootapi.Extension{{Value: broken}}}, nil); err == nil {
		t.Error("shimCgroup takes broken options")
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0a\x02id\x12\x02ns"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if p := parseParams(in, "id", "ns"); p != nil && p.GetInstanceID() != "id" {
			t.Errorf("parseParams(%q) accepted another task's params", in)
		}
		_, _ = parseOptions(in)
	})
}

func TestParseMembership(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]membership{
		`{}`: {},
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`:                                                  {group: "pod"},
		`{"annotations":{"io.kubernetes.cri-o.SandboxID":"pod","io.kubernetes.cri-o.ContainerType":"container"}}`: {group: "pod"},
		`{"annotations":{"io.containerd.runc.v2.group":"g","io.kubernetes.cri.sandbox-id":"pod"}}`:                {group: "pod"},
		`{"annotations":{"io.containerd.runc.v2.group":"g"}}`:                                                     {group: "g"},
		`{"annotations":{"io.containerd.runc.v2.group":"victim","io.kubernetes.cri-o.SandboxID":"pod"}}`:          {group: "pod"},
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"victim","io.kubernetes.cri-o.ContainerType":"sandbox",` +
			`"io.kubernetes.cri-o.SandboxID":"pod"}}`: {group: "pod"},
		`{"process":{"args":["x"]},"annotations":{"other":"o","io.containerd.runc.v2.group":"","x":"y"}}`:              {},
		`{"linux":{"namespaces":[{"type":"pid","path":"/proc/3/ns/pid"},{"type":"network","path":"/proc/7/ns/net"}]}}`: {joined: 7},
		`{"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}`:                                          {},
		`{"linux":{"namespaces":[{"type":"network","path":"/proc/7/x/ns/net"}]}}`:                                      {},
	} {
		if got, err := parseMembership(strings.NewReader(in)); got != want || err != nil {
			t.Errorf("parseMembership(%s) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{``, `{`, `[]`, `{"annotations":{"io.containerd.runc.v2.group":1}}`} {
		if got, err := parseMembership(strings.NewReader(in)); err == nil {
			t.Errorf("parseMembership(%s) = %v, want an error", in, got)
		}
	}
}

func TestGroupOf(t *testing.T) {
	t.Parallel()
	write := func(spec string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	first := write(`{"annotations":{"io.containerd.runc.v2.group":"g"}}`)
	owner := func(pid int) (string, string, error) {
		switch pid {
		case 7:
			return "first", first, nil
		case 8:
			return "gone", filepath.Join(first, "gone"), nil
		}
		return "", "", errdefs.ErrNotFound
	}
	for path, want := range map[string]string{"/proc/7/ns/net": "g", "/proc/8/ns/net": "gone", "/proc/9/ns/net": "own", "": "own"} {
		bundle := write(fmt.Sprintf(`{"linux":{"namespaces":[{"type":"network","path":%q}]}}`, path))
		if got, err := groupOf(bundle, "own", owner); got != want || err != nil {
			t.Errorf("groupOf with the network %q = %q, %v, want %q", path, got, err, want)
		}
	}
}

func FuzzParseMembership(f *testing.F) {
	f.Add(`{"annotations":{"io.containerd.runc.v2.group":"g"}}`)
	f.Fuzz(func(_ *testing.T, in string) { _, _ = parseMembership(strings.NewReader(in)) })
}

func TestSocketPath(t *testing.T) {
	t.Parallel()
	r := Request{GRPCAddress: "/run/c.sock", Namespace: "ns"}
	seen := map[string]string{}
	for _, tt := range []struct{ runtime, address, namespace, group string }{
		{"a", "/run/c.sock", "ns", "g"},
		{"b", "/run/c.sock", "ns", "g"},
		{"a", "/run/d.sock", "ns", "g"},
		{"a", "/run/c.sock", "n2", "g"},
		{"a", "/run/c.sock", "ns", "h"},
		{"a", "/run/c.sock", "n", "sg"},
	} {
		r.GRPCAddress, r.Namespace = tt.address, tt.namespace
		path, err := socketPath("", tt.runtime, r, tt.group)
		if err != nil || filepath.Dir(path) != defaultSocketDir || len(path) > 107 {
			t.Errorf("socketPath(%v) = %q, %v", tt, path, err)
		}
		if other, ok := seen[path]; ok {
			t.Errorf("%v and %s share a socket", tt, other)
		}
		seen[path] = fmt.Sprint(tt)
	}
	for _, dir := range []string{"relative", "/" + strings.Repeat("x", 42)} {
		if path, err := socketPath(dir, "a", r, "g"); err == nil {
			t.Errorf("socketPath(%q) = %q, want an error", dir, path)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s", "socket")
	l, err := listen(path)
	if err != nil || l == nil {
		t.Fatalf("listen = %v, %v", l, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket = %v, %v, want 0600", info.Mode(), err)
	}
	if again, err := listen(path); again != nil || err != nil {
		t.Errorf("listen on a served socket = %v, %v, want nil, nil", again, err)
	}
	l.Close()
	fresh, err := listen(path)
	if err != nil || fresh == nil {
		t.Fatalf("listen on a stale socket = %v, %v", fresh, err)
	}
	defer fresh.Close()
	if err := removeStale(path); err != nil {
		t.Error(err)
	}
	if c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path); err != nil {
		t.Errorf("removeStale removed a served socket: %v", err)
	} else {
		c.Close()
	}
}

func TestRemoveAllStale(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, served := range map[string]bool{"cloister-dead": false, "cloister-alive": true, "another": false} {
		l, err := listen(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if served {
			defer l.Close()
		} else {
			l.Close()
		}
	}
	removed, err := removeAllStale(dir)
	if want := []string{filepath.Join(dir, "cloister-dead")}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("removeAllStale = %v, %v, want %v", removed, err, want)
	}
	for _, name := range []string{"cloister-alive", "another"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
