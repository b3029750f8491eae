// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"os"
	"syscall"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
)

// ErrClash is wrapped when somebody else has come to have the identity of a sandbox: it is started
// anew with another. Package sandbox takes such a start back and repeats it.
var ErrClash = mcs.ErrClash

// Driver confines the processes and files of one sandbox.
type Driver interface { //nolint:interfacebloat // one method for each step of a start
	// Reserve gives the sandbox an identity that nobody else has on this host. It is called once,
	// before all other methods.
	Reserve(ctx context.Context) (Identity, error)
	// Exec has the next program that the calling thread starts confined as the role says. The
	// thread is locked, starts one program, calls unset and is never reused: see jail.Jail.Label.
	Exec(r Role) (unset func(), err error)
	// Sockets runs create, whose new sockets the machine's process may use.
	Sockets(create func() error) error
	// Admit has a file fit for the sandbox: it does already, is made to, or is refused with a
	// remedy.
	Admit(ctx context.Context, f File) error
	// Verify reads back from the kernel that all processes are confined as they should be, and that
	// nobody else has come to have the identity. It is called while none of them can have been
	// reaped and no instruction of the guest has run.
	Verify(ctx context.Context, all ...Process) error
	// Release gives back the identity, after files have what they had before. The sandbox's
	// processes have ended. It may be repeated.
	Release(ctx context.Context) error
}

// Admitter admits files of a kind that the sandbox has made itself.
func Admitter(d Driver, k Kind) func(*os.File) error {
	return func(f *os.File) error { return d.Admit(context.Background(), File{Kind: k, Host: f}) }
}

// Identity is what a driver gave a sandbox.
type Identity struct {
	// MAC is the driver that confines the sandbox.
	MAC MAC
	// Level is the sandbox's own on this host, as a rule a pair of categories.
	Level labels.Level
	// Rank numbers the level, from 0 to labels.Pairs: no other sandbox of the host has it. Levels
	// that are not a pair, which sandboxes share on purpose or an administrator chose, all have
	// labels.Pairs.
	Rank int
	// Label is the machine's; zero with a driver that does not label.
	Label labels.Label
	// Files is the label for the files of a file system that is mounted for the sandbox (context=);
	// zero with a driver that does not label.
	Files labels.Label
	// Profile is the sandbox's in AppArmor, Container the one that its plain containers run in;
	// empty with another driver.
	Profile, Container string
}

// Facts are what people ask of an identity.
func (i Identity) Facts() map[string]string {
	facts := map[string]string{"mac": string(i.MAC), "level": i.Level.String()}
	if i.Profile != "" {
		facts["profile"] = i.Profile
	}
	if !i.Label.IsZero() {
		facts["label"] = i.Label.String()
	}
	return facts
}

// Folders is the label for folders that lead to the sandbox's programs and libraries, in a file
// system that is mounted for them (context=); empty with a driver that does not label. It is that
// of the host's /usr, which every domain may search.
func (i Identity) Folders() (string, error) {
	if i.MAC != SELinux {
		return "", nil
	}
	label, err := lsm.PathLabel("/usr")
	return label.String(), err
}

// rankOf numbers a level; see Identity.Rank. QEMU's uid follows from it, so two sandboxes with one
// rank have one user.
func rankOf(l labels.Level) int {
	if p, ok := l.Pair(); ok {
		return p.Rank()
	}
	return labels.Pairs
}

// Role is what a process does for a sandbox.
type Role string

// The roles.
const (
	Machine    Role = "qemu"
	FileServer Role = "virtiofsd"
	Container  Role = "container" // any process of a plain container
)

// Process is a running process of a sandbox. The caller keeps it from being reaped, so that the pid
// is not another process's by the time it is read.
type Process struct {
	Role    Role
	PID     int
	Program string // the file that it must be running; empty for a Container, which runs files of its own
	Starter string // of a Container: the OCI runtime, which it may still be running
	// Waiting is whether it has yet to execute its program: then the label that it will run under
	// is read back.
	Waiting bool
	// Peers are this process's ends of connected unix sockets whose other ends the machine's
	// process has or is served at.
	Peers []syscall.Conn
}

// Kind is what a sandbox does with a file.
type Kind string

// The kinds of files.
const (
	State  Kind = "state"  // of the sandbox's own making: folder, logs
	Share  Kind = "share"  // of the sandbox's own making, shown to the guest
	Root   Kind = "root"   // of the sandbox's own making: the empty folder that becomes the machine's root
	Folder Kind = "folder" // shown to the guest: a root file system or volume
	Copy   Kind = "copy"   // read by the shim, which writes a copy into the guest
	Disk   Kind = "disk"   // an image file or block device of the machine
	Memory Kind = "memory" // of the sandbox's own making: the machine's memory, which its process opens by name
	// Template is memory that the machines of several sandboxes map privately, and nobody can
	// change. Only where TemplateReason is nil.
	Template Kind = "template"
)

// File is what Admit decides about. The descriptors stay the caller's.
type File struct {
	Kind Kind
	// Host is the file as the host has it; O_PATH is enough. Nothing is resolved by name again.
	Host *os.File
	// Shown is what the file server sees of a Folder; nil: Host.
	Shown *os.File
	// Sharing and Label say how a Folder is to be labelled. Empty is a root file system's: private,
	// unless its label fits already. The Label of a Copy is the one that the engine gives the
	// container's files.
	Sharing labels.Sharing
	Label   labels.Label
	// ReadOnly is of a Disk that the guest may only read, New of one that was made for the sandbox.
	ReadOnly, New bool
}
