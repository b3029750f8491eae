// SPDX-License-Identifier: Apache-2.0

// Package wire is what the lab's host and the program in its machine say to each other: one JSON
// object a line, requests one way and one answer each the other.
package wire

// Port is the name of the virtio-serial port.
const Port = "cloister.lab"

// Request asks the machine for one thing. One of the pointers is set.
type Request struct {
	Run    *Run    `json:"run,omitempty"`
	End    *End    `json:"end,omitempty"`
	Write  *Write  `json:"write,omitempty"`
	Read   *Read   `json:"read,omitempty"`
	Policy *Policy `json:"policy,omitempty"`
	Off    bool    `json:"off,omitempty"`
}

// Answer is the machine's. Failure is the lab's own trouble, never a program's.
type Answer struct {
	Failure string `json:"failure,omitempty"`
	Exit    int    `json:"exit"`
	PID     int    `json:"pid,omitempty"`
	Out     string `json:"out,omitempty"`
	// Audit are the audit records since the answer before.
	Audit []string `json:"audit,omitempty"`
	Lost  int      `json:"lost,omitempty"`
}

// Run starts a program as init would and, unless it stays, waits for its end.
type Run struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	// Entry says under what label and with which files it runs; without one it runs as the lab's
	// program does.
	Entry *Entry `json:"entry,omitempty"`
	// Stay leaves it running: the answer comes with its first line of output.
	Stay    bool `json:"stay,omitempty"`
	Seconds int  `json:"seconds,omitempty"`
}

// Entry is how the entering program, in the domain that may, starts another one.
type Entry struct {
	// Through is the entering program; its own label is what counts.
	Through string `json:"through"`
	Label   string `json:"label"`
	// Output is the context of the file that the program appends its output to.
	Output string `json:"output"`
	// Open are files opened by the entering program; their descriptors are 3 and up.
	Open []File `json:"open,omitempty"`
	// Send are files opened by the entering program and waiting in a socket pair whose other half
	// comes after Open's.
	Send []File `json:"send,omitempty"`
}

// File is a file to be opened: flags of r, w, a(ppend), d(irectory), p(ath); tap makes a tap of
// that name.
type File struct {
	Path  string `json:"path"`
	Flags string `json:"flags"`
}

// End kills a program that stays.
type End struct {
	PID int `json:"pid"`
}

// Write makes a file, folder, link or node, with a context if one is given.
type Write struct {
	Path   string `json:"path"`
	Data   []byte `json:"data,omitempty"`
	Mode   uint32 `json:"mode,omitempty"`
	Folder bool   `json:"folder,omitempty"`
	Link   string `json:"link,omitempty"`
	Size   int64  `json:"size,omitempty"`
	// Device is a block device's major and minor number.
	Device [2]uint32 `json:"device,omitzero"`
	// Anew removes what is there.
	Anew    bool   `json:"anew,omitempty"`
	Context string `json:"context,omitempty"`
	// Label only: the file is there.
	Label bool `json:"label,omitempty"`
}

// Read reads a file's text and context.
type Read struct {
	Path    string `json:"path"`
	Context bool   `json:"context,omitempty"`
}

// Policy loads a policy, or switches between enforcing and permissive.
type Policy struct {
	Load    string `json:"load,omitempty"`
	Enforce *bool  `json:"enforce,omitempty"`
}
