// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// registerHold serves cloister.task.v1.Proxy, which the OCI command line calls from the process
// that stands for another on the host. Hold is Wait, and binds the process in the sandbox to the
// connection: when that breaks, because the caller was killed, the process is killed. The messages
// are those of Wait.
func registerHold(server *ttrpc.Server, svc taskapi.TTRPCTaskService) {
	server.RegisterService("cloister.task.v1.Proxy", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Hold": func(ctx context.Context, unmarshal func(any) error) (any, error) {
			req := &taskapi.WaitRequest{}
			if err := unmarshal(req); err != nil {
				return nil, err
			}
			return hold(ctx, svc, req)
		},
	}})
}

// hold waits like Wait, and kills the process when the connection breaks first. The caller's
// context has ended by then.
func hold(ctx context.Context, svc taskapi.TTRPCTaskService, req *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	resp, err := svc.Wait(ctx, req)
	if err == nil || ctx.Err() == nil {
		return resp, err
	}
	ctx = context.WithoutCancel(ctx)
	if _, kerr := svc.Kill(ctx, &taskapi.KillRequest{ID: req.GetID(), ExecID: req.GetExecID(), Signal: uint32(unix.SIGKILL)}); kerr != nil {
		log.G(ctx).WithError(kerr).WithField("id", req.GetID()).Debug("kill a process whose proxy was killed") // it may have ended
	}
	return nil, err
}
