// SPDX-License-Identifier: Apache-2.0

// Package standin has programs stand for the processes of a running sandbox: in their place, with
// some of the layers that they have. It must not know what the programs do. A Place may be used at
// once.
//
// It gives package prove its Domain: Layers says what is on, NewSockets and Start bring a program
// into the place. Nothing here is used by a workload's sandbox.
package standin
