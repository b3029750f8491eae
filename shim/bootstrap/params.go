// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"io"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxInput bounds what is read from stdin, in bytes: options are a path or a small document.
const maxInput = 4 << 20

// readInput reads stdin to its end.
func readInput(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("read stdin: more than %d bytes", maxInput)
	}
	return data, nil
}

// parseParams decodes BootstrapParams and returns nil when input is something else: nothing, or the
// options of an older containerd. Those can decode as BootstrapParams too, so the identity has to
// agree with the arguments.
func parseParams(input []byte, id, namespace string) *bootapi.BootstrapParams {
	params := &bootapi.BootstrapParams{}
	if len(input) == 0 || proto.Unmarshal(input, params) != nil {
		return nil
	}
	if params.GetInstanceID() != id || params.GetNamespace() != namespace {
		return nil
	}
	return params
}

// shimCgroup is the cgroup for the daemon that runc's options name, which engines send whatever the
// runtime; empty when there is none. input is used when params is nil. Options of other runtimes
// are left alone here: Create refuses those that it does not know.
func shimCgroup(params *bootapi.BootstrapParams, input []byte) (string, error) {
	candidates := []*anypb.Any{}
	for _, e := range params.GetExtensions() {
		candidates = append(candidates, e.GetValue())
	}
	if params == nil {
		options, err := parseOptions(input)
		if err != nil {
			return "", err
		}
		candidates = append(candidates, options)
	}
	for _, c := range candidates {
		if o := (&runcoptions.Options{}); c.MessageIs(o) {
			if err := c.UnmarshalTo(o); err != nil {
				return "", fmt.Errorf("runc's options: %w", err)
			}
			return o.GetShimCgroup(), nil
		}
	}
	return "", nil
}

// parseOptions decodes the options that -info gets on stdin; nil when there are none.
func parseOptions(input []byte) (*anypb.Any, error) {
	if len(input) == 0 {
		return nil, nil
	}
	options := &anypb.Any{}
	if err := proto.Unmarshal(input, options); err != nil {
		return nil, fmt.Errorf("options on stdin: %w", err)
	}
	return options, nil
}
