// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxErrorText bounds what the guest can put into an error on the host.
const maxErrorText = 2048

// ErrProtocol is the class of errors of a guest that breaks the contract.
var ErrProtocol = fmt.Errorf("guest breaks the contract: %w", errdefs.ErrAborted)

// ErrSilent is the class of errors of a guest that has not answered a call for too long.
var ErrSilent = fmt.Errorf("the guest does not answer: %w", errdefs.ErrUnavailable)

// guestError re-makes an error that the guest sent: its class and its text, cut; never its details,
// which would be decoded by type name. A class decides what a client does, so only gRPC's known
// codes come through; an unknown one is errdefs.ErrUnknown.
func guestError(s *spb.Status) error {
	code := codes.Code(uint32(max(0, s.GetCode())))
	text := Text(s.GetMessage(), maxErrorText)
	return errgrpc.ToNative(status.Error(code, text)) //nolint:forbidigo // the guest's errors come in here alone
}
