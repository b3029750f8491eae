// SPDX-License-Identifier: Apache-2.0

package bootstrap_test

import (
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"

	"cloister/tests/testenv"
)

// TestStartWhileTheLastDaemonLeaves has the same container started again as soon as the daemon has
// answered Shutdown, and while its client has not hung up: the start finds no daemon, and the one
// that leaves does not take the new one's socket along.
func TestStartWhileTheLastDaemonLeaves(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	dir := socketDir(t)
	serve := func() (client taskapi.TTRPCTaskService, address string, pid int) {
		v := invocation{mode: "serve", id: "a", bundle: newBundle(t, ""), stdin: params(t, "a", dir)}
		out, errs, err := v.run(t, "start")
		var answer bootapi.BootstrapResult
		if err != nil || len(errs) > 0 || proto.Unmarshal(out, &answer) != nil {
			t.Fatalf("start = %v, %q, stderr %q", err, out, errs)
		}
		client = connect(t, answer.Address)
		resp, err := client.Connect(t.Context(), &taskapi.ConnectRequest{ID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		return client, answer.Address, int(resp.GetShimPid())
	}
	shutdown := func(client taskapi.TTRPCTaskService) {
		if _, err := client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "a"}); err != nil {
			t.Error(err)
		}
	}
	client, address, first := serve()
	shutdown(client)
	_, again, second := serve()
	if again != address || second == first {
		t.Fatalf("the second start = daemon %d at %s, want another than %d at %s", second, again, first, address)
	}
	gone(t, "/proc/"+itoa(first))
	shutdown(connect(t, address)) // its name is still there
	gone(t, strings.TrimPrefix(address, "unix://"))
	gone(t, "/proc/"+itoa(second))
}
