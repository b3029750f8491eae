// SPDX-License-Identifier: Apache-2.0

// Package stdio joins the processes' standard streams with the host's streams.
// A full window of the stream holds the process up, as a full pipe would.
//
// A process without a terminal gets pipes whose other ends are copied straight to the host. A
// terminal is copied by containerd's own package, from and to FIFOs: a terminal is slow anyhow.
//
// The package must not know what the host does with the bytes. Registry is safe for concurrent use;
// of one Pipes, Open, Started or Discard, and Close are called in this order by whoever owns the
// process.
package stdio
