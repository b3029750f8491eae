// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/sandbox/prove"
)

const fullConfig = `{"ociVersion":"1.0.2","hostname":"h","root":{"path":"/b/rootfs"},"mounts":[{"destination":"/proc","type":"proc"}],
"process":{"args":["/x"],"cwd":"/","noNewPrivileges":true,"capabilities":{"bounding":["CAP_KILL"]},
"selinuxLabel":"l","apparmorProfile":"p"},
"linux":{"cgroupsPath":"/c","seccomp":{"defaultAction":"SCMP_ACT_ERRNO"},"mountLabel":"m","maskedPaths":["/proc/kcore"],
"readonlyPaths":["/proc/sys"],"resources":{"devices":[{"allow":false,"access":"rwm"}]},
"namespaces":[{"type":"mount"},{"type":"pid"}],"sysctl":{"a":"b"}}}`

// TestStripped: each layer is what is left when all others are taken away, and one that is left has
// what the container has.
func TestStripped(t *testing.T) {
	const nothing = `{"ociVersion":"1.0.2","root":{"path":"/host","readonly":false},"mounts":[],
"process":{"args":["/a","b"],"cwd":"/t","noNewPrivileges":false,
"capabilities":{"bounding":["CAP_A"],"permitted":["CAP_A"],"effective":["CAP_A"]}},
"linux":{"cgroupsPath":"/c-alone","resources":{"devices":[{"allow":true,"access":"rwm"}]},"namespaces":[{"type":"mount"}]}}`
	object := func(o any, name string) map[string]any { return o.(map[string]any)[name].(map[string]any) }
	for _, tt := range []struct {
		with []prove.Layer
		add  func(want, full any)
	}{
		{nil, func(any, any) {}},
		{[]prove.Layer{prove.MAC}, func(want, _ any) {
			object(want, "process")["selinuxLabel"], object(want, "process")["apparmorProfile"] = "l", "p"
			object(want, "linux")["mountLabel"] = "m"
		}},
		{[]prove.Layer{prove.User}, func(want, full any) {
			object(want, "process")["noNewPrivileges"] = true
			object(want, "process")["capabilities"] = object(full, "process")["capabilities"]
		}},
		{[]prove.Layer{prove.Seccomp}, func(want, full any) {
			object(want, "linux")["seccomp"] = object(full, "linux")["seccomp"]
		}},
		{[]prove.Layer{prove.Root}, func(want, full any) {
			for _, name := range []string{"root", "mounts"} {
				want.(map[string]any)[name] = full.(map[string]any)[name]
			}
			object(want, "process")["cwd"] = "/"
			for _, name := range []string{"maskedPaths", "readonlyPaths"} {
				object(want, "linux")[name] = object(full, "linux")[name]
			}
		}},
		{[]prove.Layer{prove.Namespaces}, func(want, full any) {
			object(want, "linux")["namespaces"] = object(full, "linux")["namespaces"]
		}},
		{[]prove.Layer{prove.Cgroup}, func(want, full any) {
			object(want, "linux")["resources"] = object(full, "linux")["resources"]
		}},
	} {
		text, err := stripped([]byte(fullConfig), tt.with, []string{"/a", "b"}, []string{"CAP_A"}, mounted{"/host", "/t"})
		if err != nil {
			t.Fatal(err)
		}
		var got, want, full any
		for text, to := range map[string]*any{string(text): &got, nothing: &want, fullConfig: &full} {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				t.Fatal(err)
			}
		}
		tt.add(want, full)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("stripped with %v (-want +got):\n%s", tt.with, diff)
		}
	}
	if _, err := stripped([]byte(`{"process":{}}`), nil, nil, nil, mounted{}); err == nil {
		t.Error("a configuration without a cgroup: no error")
	}
}
