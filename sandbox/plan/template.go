// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"

	"cloister/sandbox/guestapi"
	"cloister/vmm"
)

// ForTemplate is the machine that is saved so that machines like m may start from it: without the
// share, and with an agent that waits. It has the same devices in the same places, since the state
// of the saved ones is loaded into them.
func ForTemplate(m vmm.Machine) vmm.Machine {
	m.Origin, m.Share = vmm.ForTemplate, nil
	m.Cmdline = append(slices.Clone(m.Cmdline), guestapi.TemplateParameter)
	return m
}

// FromTemplate is m as it starts from a template whose NICs have those addresses. The guest's
// kernel has read them at boot; they only tell the NICs apart. The links that the NICs stand for
// give them their addresses later, as in a cold start.
func FromTemplate(m vmm.Machine, macs []string) (vmm.Machine, error) {
	if len(macs) != len(m.NICs) {
		return m, fmt.Errorf("template has %d NICs, the machine %d", len(macs), len(m.NICs))
	}
	m.Origin, m.NICs = vmm.FromTemplate, slices.Clone(m.NICs)
	for i, mac := range macs {
		m.NICs[i].MAC = mac
	}
	return m, m.Validate()
}

// NoTemplate says why a machine cannot start from a template; empty: it can. What a template cannot
// serve starts cold. Each reason is a state that the saved guest has and cannot change afterwards,
// or a board that QEMU does not restore with a file server.
func NoTemplate(m vmm.Machine, users guestapi.UserNamespace) string {
	switch {
	case m.Type != vmm.MicroVM:
		return "its machine type is " + string(m.Type) + ", and templates exist only for microvm"
	case m.HugePages:
		return "its memory uses huge pages"
	case !users.IsZero():
		return "its user namespace is made while the guest boots"
	}
	return ""
}
