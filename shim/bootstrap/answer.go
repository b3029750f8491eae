// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"strings"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
)

// form is a way to answer start.
type form int

const (
	formPlain  form = iota // 1.6: the address and nothing else
	formJSON2              // 1.7: JSON, which refuses a version above 2
	formJSON3              // 2.0 to 2.2: JSON, version 3
	formResult             // 2.3 and later: BootstrapResult
)

// apiVersion is the version of the task API that a form announces. 3 also says that later tasks of
// a sandbox reuse its address.
func (f form) apiVersion() int32 {
	if f == formJSON3 || f == formResult {
		return 3
	}
	return 2
}

// decideForm tells which containerd asks. Only 2.3 and later send BootstrapParams, and 1.6 does not
// know MAX_SHIM_VERSION. 1.7 and 2.0 to 2.2 say exactly the same ("MAX_SHIM_VERSION=2"), so the
// caller's executable is asked; where it cannot be, version 2 suits both. Who has no address is no
// containerd: CRI-O uses containerd's code to start a shim, and takes what it says for the address.
func decideForm(sentParams bool, address, maxVersion, callerExe string) form {
	switch {
	case sentParams:
		return formResult
	case maxVersion == "" || address == "":
		return formPlain
	case isContainerd2(callerExe):
		return formJSON3
	}
	return formJSON2
}

// isContainerd2 says whether the Go executable at path is a containerd of the module's second major
// version. A file that cannot be read, or is no Go program, is none.
func isContainerd2(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && strings.HasPrefix(info.Path, "github.com/containerd/containerd/v2/")
}

// legacyAnswer is what containerd 1.7 to 2.2 decode. Its field names are theirs.
type legacyAnswer struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// encode writes the answer of start, byte for byte what that containerd decodes: no line end. Mount
// capabilities are sent even when they are empty, since containerd runs -info once more without
// them.
func (f form) encode(address string, mounts *types.MountCapabilities) ([]byte, error) {
	switch f {
	case formPlain:
		return []byte(address), nil
	case formJSON2, formJSON3:
		return json.Marshal(legacyAnswer{Version: int(f.apiVersion()), Address: address, Protocol: "ttrpc"})
	case formResult:
		result := &bootapi.BootstrapResult{Version: f.apiVersion(), Address: address, Protocol: "ttrpc"}
		if mounts == nil {
			mounts = &types.MountCapabilities{}
		}
		if err := result.AddExtension(mounts); err != nil {
			return nil, fmt.Errorf("advertise mounts: %w", err)
		}
		return proto.Marshal(result)
	}
	return nil, fmt.Errorf("answer form %d is unknown", f)
}
