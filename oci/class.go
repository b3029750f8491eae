// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Class is how a sandbox is isolated from the host.
type Class string

// The classes. A machine isolates more than a process does.
const (
	ClassVM      Class = "vm"      // a machine with a kernel of its own; the default
	ClassProcess Class = "process" // plain containers on the host
)

// ClassOf says which class a container is to have: the configured one, empty for the default, or
// the one that the annotation io.cloister.class asks for. The annotation may only raise the
// isolation, and only where the configuration switches it on: whoever writes a pod must not choose
// how well the host is protected from it. It reads no more than the annotations, so that both
// parsers can come after it.
func ClassOf(config []byte, configured Class, opts Options) (Class, error) {
	var p problems
	switch configured {
	case "":
		configured = ClassVM
	case ClassVM, ClassProcess:
	default:
		p.refuse("class", string(configured), "is not a class: set class to vm or process in cloister's configuration")
		return "", p.err()
	}
	var spec specs.Spec
	if err := decode(config, &spec); err != nil {
		return "", err
	}
	value, asked := spec.Annotations[AnnotationClass]
	field := "annotations." + AnnotationClass
	switch {
	case !asked:
		return configured, nil
	case !slices.Contains(opts.Annotations, AnnotationClass):
		p.refuse(field, value, "is switched off: list it under workloads.annotations in cloister's configuration")
	case value == string(configured), value == string(ClassVM):
		return Class(value), nil
	case value == string(ClassProcess):
		p.refuse(field, value,
			"would lower the isolation of class vm: choose the runtime handler whose configuration has class = \"process\"")
	default:
		p.refuse(field, value, "is neither vm nor process")
	}
	return "", p.err()
}
