// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// raiseOOMScore sets how readily the kernel kills a process when memory is short. The score is
// inherited from the engine, which is protected; a sandbox must not be. It never becomes lower than
// what is inherited. Engines run at -999: QEMU with that score would outlive everything else on a
// host that is out of memory. Lowering it takes CAP_SYS_RESOURCE.
func raiseOOMScore(pid, score int) error {
	name := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || now >= score {
		return err
	}
	return os.WriteFile(name, []byte(strconv.Itoa(score)), 0)
}
