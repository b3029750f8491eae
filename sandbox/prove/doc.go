// SPDX-License-Identifier: Apache-2.0

// Package prove attacks the host from the place of a sandbox's processes and tells which layers
// stop each attack.
//
// An attacker's program stands for a QEMU or a file server that a guest has taken over, or runs in
// a plain container. Every attack is made three ways: with all layers, where it must fail; by root
// without any, where it must succeed, or it would show nothing; and with each layer alone, which
// tells the layers that stop it by themselves. The package must not know how a layer is made: a
// Domain starts the attacker with the layers that it is given. Run is called once at a time.
//
// `cloister prove` makes two throwaway sandboxes and gives Run their Domains; tests/machine does
// the same without guests. The attacker is a program in place of QEMU: a real one would have to be
// broken into first. The shim gives it everything that keeps it before its first instruction.
package prove
