// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"cloister/sandbox/recovery"
)

// forgets is an OCI runtime's service that counts deletes.
type forgets struct {
	taskapi.TTRPCTaskService

	deletes int
}

func (f *forgets) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	f.deletes++
	return &taskapi.DeleteResponse{}, nil
}

// TestSecondDeleteWaits: of two clients that delete a container, the second one gets its answer
// when the sandbox is down, and does not delete another container that has the name by then.
func TestSecondDeleteWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deleted := make(chan struct{})
		held := &sandbox{config: Config{Host: recovery.Host{Trace: func(string, string) { <-deleted }}}}
		f, c := &forgets{}, &container{id: "one", sandbox: held, deleting: make(chan struct{}, 1)}
		s := &Service{TTRPCTaskService: f, containers: map[string]*container{"one": c}}
		remove := func(ctx context.Context) error {
			_, err := s.Delete(ctx, &taskapi.DeleteRequest{ID: "one"})
			return err
		}
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- remove(t.Context()) }()
		synctest.Wait() // the OCI runtime has deleted it, and the sandbox is there
		go func() { second <- remove(t.Context()) }()
		synctest.Wait()
		if len(second) > 0 {
			t.Error("the second delete does not wait")
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if err := remove(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Delete of a client that has gone = %v", err)
		}
		other := &container{id: "one"}
		s.mu.Lock()
		s.containers["one"] = other
		s.mu.Unlock()
		close(deleted)
		if err := <-first; err != nil {
			t.Errorf("the first delete = %v", err)
		}
		if err := <-second; !errdefs.IsNotFound(err) {
			t.Errorf("the second delete = %v, want not found", err)
		}
		if f.deletes != 1 {
			t.Errorf("%d deletes have reached the OCI runtime, want 1", f.deletes)
		}
		if s.containers["one"] != other {
			t.Error("the other container is gone")
		}
	})
}
