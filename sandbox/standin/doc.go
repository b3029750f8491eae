// SPDX-License-Identifier: Apache-2.0

// Package standin has programs stand for the processes of a running sandbox: in their place, with
// some of the layers that they have. It must not know what the programs do. A Place may be used at
// once.
package standin
