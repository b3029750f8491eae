// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cloister/labels/policy"
)

// secondConfig configures the clients' containerd: CRI labels pods, and takes the types from
// secondContexts.
const secondConfig = `version = 3
root = "/var/lib/containerd2"
state = "/run/containerd2"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "/run/containerd2/containerd.sock"
[plugins."io.containerd.cri.v1.runtime"]
  enable_selinux = %t
  restrict_oom_score_adj = true
  disable_apparmor = true
  stats_collect_period = "10s"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/lab/two/cni"]
    conf_dir = "/lab/two"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "cloister"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.cloister]
      runtime_type = "io.containerd.cloister.v2"
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = "` + secondScratch + `"
  fs_type = "ext4"
  mount_options = []
  recreate_scratch = true
`

// secondScratch is the empty file system of which root file systems on disks are copies.
const secondScratch = "/lab/two/scratch.ext4"

const secondNetwork = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
"ipam":{"type":"host-local","dataDir":"/run/lab/ipam","ranges":[[{"subnet":"10.85.0.0/24"}]]}}]}
`

// secondContexts is the file from which engines read their containers' types. Debian's own file
// names types that its policy does not have.
const secondContexts = `process = "system_u:system_r:` + policy.ContainerType + `:s0"
content = "system_u:object_r:` + policy.ContentType + `:s0"
file = "system_u:object_r:` + policy.ContainerFileType + `:s0"
ro_file = "system_u:object_r:` + policy.ContentType + `:s0"
`

// secondFiles are a containerd of the clients', in bin, the network plugins in cni, and a client of
// CRI.
func secondFiles(ctx context.Context, m mac, work, bin, cni string) ([]file, error) {
	pods := filepath.Join(work, "pods")
	if err := tool(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", pods, "cloister/tests/lab/pods"); err != nil {
		return nil, err
	}
	list := []file{{"bin/pods", pods, "bin_t"}}
	for _, name := range []string{"containerd", "ctr"} {
		list = append(list, file{"two/" + name, filepath.Join(bin, name), "bin_t"})
	}
	for _, name := range []string{"bridge", "host-local", "loopback"} {
		list = append(list, file{"two/cni/" + name, filepath.Join(cni, name), "bin_t"})
	}
	for name, text := range map[string]string{
		"containerd.toml":  fmt.Sprintf(secondConfig, m == selinuxMAC),
		"10-pods.conflist": secondNetwork, "contexts": secondContexts,
	} {
		path := filepath.Join(work, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("the second engine's %s: %w", name, err)
		}
		list = append(list, file{"two/" + name, path, "etc_t"})
	}
	scratch := filepath.Join(work, "scratch.ext4")
	list = append(list, file{"two/scratch.ext4", scratch, "etc_t"})
	return list, tool(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", scratch, "16M")
}
