// SPDX-License-Identifier: Apache-2.0

// Package standin has programs stand for the processes of a running sandbox: in their place, with
// some of the layers that they have. It must not know what the programs do. A Place may be used at
// once, a Container by one goroutine.
//
// It gives package prove its Domains: Layers says what is on, Start brings a program into the
// place. A Place is one of a machine's processes. A Container is a plain container that is made for
// it; with all layers a program is an exec of its, else a container of the same configuration with
// less in it. Nothing here is used by a workload's sandbox.
package standin
