// SPDX-License-Identifier: Apache-2.0

package template

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Key says what a saved guest depends on. Guests with the same key may start from the same
// template. What is not in it must not make a difference to a saved guest. A field that is missing
// would have guests resume on what they were not booted for; one too many costs a template that
// nobody finds.
type Key struct {
	Image      string   `json:"image"`      // digest of the guest image's inputs
	Kernel     string   `json:"kernel"`     // SHA-256 of its kernel
	Initrd     string   `json:"initrd"`     // SHA-256 of its initial image
	Protocol   int      `json:"protocol"`   // of the contract with the guest
	QEMU       string   `json:"qemu"`       // SHA-256 of QEMU's binary
	Machine    string   `json:"machine"`    // type of the board
	Accel      string   `json:"accel"`      // accelerator
	CPUs       int      `json:"cpus"`       // virtual CPUs
	MemoryMiB  int      `json:"memoryMiB"`  // the machine's
	Cmdline    []string `json:"cmdline"`    // the kernel's line, without what is measured anew at each start
	Arguments  []string `json:"arguments"`  // QEMU's, without descriptors and addresses: CPU model, devices and their places
	HostCPU    string   `json:"hostCPU"`    // model, features and microcode of the host's CPU
	HostKernel string   `json:"hostKernel"` // release
	Policy     string   `json:"policy"`     // which mandatory access control, and the digest of cloister's policy
}

// idDigits is how much of the digest names a template. 128 bits: nobody finds two keys with one
// name.
const idDigits = 32

// ID is a name for the key, fit to be a file's. It is part of the format on disk: a field that is
// renamed or moved makes all templates unfindable, and GC removes them in time.
func (k Key) ID() string {
	data, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:idDigits]
}
