// SPDX-License-Identifier: Apache-2.0

// Package clone starts machines from templates, and makes templates of machines.
//
// It decides which template a machine may start from, and brings memory, devices and seed into a
// machine that QEMU holds stopped. It must know nothing of containers, labels and the sandbox's
// record: package sandbox calls it between its own steps. A Source and a Build belong to one start,
// and their methods are called in the order in which they are declared.
//
// A start calls Host.Choose, then Recall, Load and Wake of the Source; a build NewBuild, then
// Begin, Await, Save and Keep of the Build. Everything that fails before the guest is configured
// can be repeated cold, because no workload has seen the guest yet.
package clone
