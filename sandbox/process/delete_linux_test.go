// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
)

// forgets is an OCI runtime's service that deletes a container once, and takes its time.
type forgets struct {
	taskapi.TTRPCTaskService

	slow    chan struct{}
	deletes int
}

func (f *forgets) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	f.deletes++
	<-f.slow
	return nil, errdefs.ErrNotFound
}

// TestSecondDeleteWaits: of two clients that delete a container, the second one gets its answer
// when the container is gone, and does not delete another one that has its name by then.
func TestSecondDeleteWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &forgets{slow: make(chan struct{})}
		c := &container{id: "one", deleting: make(chan struct{}, 1)}
		s := &Service{TTRPCTaskService: f, containers: map[string]*container{"one": c}}
		ended := make(chan error)
		for range 2 {
			go func() {
				_, err := s.Delete(t.Context(), &taskapi.DeleteRequest{ID: "one"})
				ended <- err
			}()
		}
		synctest.Wait()
		s.mu.Lock()
		s.containers["one"] = &container{id: "one"}
		s.mu.Unlock()
		close(f.slow)
		for range 2 {
			if err := <-ended; !errdefs.IsNotFound(err) {
				t.Errorf("Delete = %v, want not found", err)
			}
		}
		if f.deletes != 1 {
			t.Errorf("%d deletes have reached the OCI runtime, want 1", f.deletes)
		}
	})
}
