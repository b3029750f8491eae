// SPDX-License-Identifier: Apache-2.0

// Package stdio joins the FIFOs that containerd's runc-shim packages read and
// write with the host's streams. A full window of the stream holds the
// process up, as a full FIFO would.
package stdio
