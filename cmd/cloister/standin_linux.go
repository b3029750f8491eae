// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"cloister/sandbox/prove"
)

// The programs that stand for a sandbox's process, and that are attacked. They are this program,
// since the jail's rules and labels are for one known file.
const (
	proveAttacker = "prove-attacker"
	proveVictim   = "prove-victim"
)

// standsFor is the program that stands for a sandbox's process, or is attacked; false: none is
// asked for. It reads no config and knows no verbs. main asks it first: in the jail there is no
// config, and cobra would cost time and files.
func standsFor(args []string) (bool, error) {
	if len(args) != 1 {
		return false, nil
	}
	switch args[0] {
	case proveAttacker:
		return true, prove.Attacker(os.Stdin, os.Stdout)
	case proveVictim:
		return true, prove.Victim(os.Stdin, os.Stdout)
	}
	return false, nil
}
