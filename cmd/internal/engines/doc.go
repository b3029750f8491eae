// SPDX-License-Identifier: Apache-2.0

// Package engines makes the changes to the configuration of container engines that tell them of
// cloister's runtime.
//
// It changes text and keeps every byte that is not cloister's: comments, order, and keys it has
// never heard of. It must not touch a file: Change is a value, which cmd/cloister shows or writes.
// Each engine is a struct with Add and Remove. All of it is safe for concurrent use.
package engines

import (
	"errors"
	"path"
)

// Names of the runtimes: of machines, and of plain containers of the host. They are a contract with
// users' commands, RuntimeClasses and containerd's rule by which a type names a program.
const (
	Runtime            = "cloister"
	RuntimeType        = "io.containerd.cloister.v2"
	ProcessRuntime     = "cloister-process"
	ProcessRuntimeType = "io.containerd.cloister-process.v2"
	Program            = "cloister-oci" // of engines that call an OCI command line
	ProcessProgram     = "cloister-oci-process"
)

// runtime is what engines call a class, and what they start for it: a shim, by its type or by its
// program, or an OCI command line. The programs of both classes are in one folder.
type runtime struct{ name, kind, shim, program string }

func runtimes() []runtime {
	return []runtime{
		{Runtime, RuntimeType, "containerd-shim-cloister-v2", Program},
		{ProcessRuntime, ProcessRuntimeType, "containerd-shim-cloister-process-v2", ProcessProgram},
	}
}

// beside is the path of a program in the folder of another.
func beside(other, name string) string { return path.Join(path.Dir(other), name) }

// ErrConfig is wrapped when a configuration is not one that can be added to; the error says what to
// do by hand. Nothing has been changed then.
var ErrConfig = errors.New("configuration left as it is")

// Change is a file before and after. An empty After with New false means that nothing is left in
// the file.
type Change struct {
	Path          string
	Before, After []byte
	// New says that the file is not there yet.
	New bool
}

// Needed tells whether there is anything to do. A new file without content is no change.
func (c Change) Needed() bool {
	return c.New && len(c.After) > 0 || string(c.Before) != string(c.After)
}
