// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cloister/sandbox/confine"
	"cloister/sandbox/standin"
	"cloister/sandbox/statedir"
)

// Place is where the processes of the sandbox are, for programs that stand for them. Its Empty is
// the caller's to close.
func (s *Sandbox) Place() (standin.Place, error) {
	empty, err := s.share.Empty()
	return standin.Place{VM: s.vm, Driver: s.confine, Jail: s.config.Jail, MAC: confine.MAC(s.Facts()["mac"]), Empty: empty}, err
}

// Dir is the sandbox's state folder.
func (s *Sandbox) Dir() statedir.Dir { return s.journal.Dir() }
