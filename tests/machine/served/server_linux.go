// SPDX-License-Identifier: Apache-2.0

package served

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/jail"
	"cloister/tests/testenv"
	"cloister/vmm/virtiofsd"
)

// maxLog bounds what a test shows of the server's log.
const maxLog = 8 << 10

// Server is a file server in its jail.
type Server struct {
	*virtiofsd.Process

	Jail   jail.Jail
	Served *os.File // the folder, as the server's mount namespace has it
	Log    string   // path of what the server writes to its standard error
}

// Binary is the server that tests use: the system's, or the one that TEST_VIRTIOFSD names.
func Binary(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv("TEST_VIRTIOFSD"); binary != "" {
		return binary
	}
	return testenv.NeedVirtiofsd(t)
}

// debugging starts the server in its jail with one more argument. With plus the server lists
// folders with attributes, as it does where the host allows it many descriptors.
type debugging struct {
	jail.Jail
	argument string
	plus     bool
}

func (d debugging) Start(cmd *exec.Cmd) error {
	cmd.Args = append(cmd.Args, d.argument)
	if d.plus {
		if i := slices.Index(cmd.Args, "no_readdirplus"); i > 0 {
			cmd.Args = slices.Delete(cmd.Args, i-1, i+1) // with its -o
		}
		cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "--no-readdirplus" })
	}
	return d.Jail.Start(cmd)
}

// Start serves a folder that is a shared mount. The server ends with the test.
func Start(t *testing.T, dir string) *Server {
	t.Helper()
	return start(t, dir, func(j jail.Jail, _ virtiofsd.Kind) virtiofsd.Starter { return j })
}

// StartDebug is Start with a server whose Log has a line for each request. plus has it list folders
// with attributes.
func StartDebug(t *testing.T, dir string, plus bool) *Server {
	t.Helper()
	argument := map[virtiofsd.Kind]string{virtiofsd.KindC: "-d", virtiofsd.KindRust: "--log-level=debug"}
	return start(t, dir, func(j jail.Jail, k virtiofsd.Kind) virtiofsd.Starter { return debugging{j, argument[k], plus} })
}

func start(t *testing.T, dir string, starter func(jail.Jail, virtiofsd.Kind) virtiofsd.Starter) *Server {
	t.Helper()
	testenv.NeedRoot(t)
	binary := Binary(t)
	files := jail.Files{Tree: dir}
	if libraries := os.Getenv("TEST_VIRTIOFSD_LIBRARIES"); libraries != "" {
		files.Read = []string{libraries}
	}
	s := &Server{Jail: Jail(t, jail.Config{}).MayOpen(jail.Config{}, files)}
	_, kind, err := virtiofsd.Find(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	if s.Served, err = s.Jail.Root.Folder(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Served.Close() })
	log, err := os.OpenFile(filepath.Join(t.TempDir(), "virtiofsd.log"), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	s.Log = log.Name()
	s.Process, err = virtiofsd.Start(t.Context(), virtiofsd.Config{
		Binary: binary, Kind: kind, Starter: starter(s.Jail, kind), Source: s.Served, Dir: t.TempDir(), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(log.Name()); err == nil && len(text) > 0 {
			t.Logf("virtiofsd.log: %s", text[max(0, len(text)-maxLog):])
		}
	})
	return s
}

// Jail is a file server's, with namespaces of its own.
func Jail(t *testing.T, c jail.Config) jail.Jail {
	t.Helper()
	j := jail.ForVirtiofsd(c)
	if !c.Has(jail.Namespaces) {
		return j
	}
	var err error
	if j.Root, err = jail.NewRoot(true); err != nil {
		t.Fatal(err)
	}
	if j.PIDs, err = jail.NewPIDs(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(j.Root.Close(), j.PIDs.Close()) })
	return j
}

// Leave reads the server's jail back and has it leave the host's root, once it has answered.
func (s *Server) Leave(t *testing.T) {
	t.Helper()
	err := errors.Join(s.Jail.Verify(s.Pid()), s.Jail.Root.Pivot(s.Served), jail.VerifyRoot(s.Pid(), s.Served))
	if err != nil {
		t.Fatal(err)
	}
}

// Mount mounts until the test ends.
func Mount(t *testing.T, source, target, fs string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, fs, flags, data); err != nil {
		t.Fatalf("mount %s: %v", target, err)
	}
	if flags&(unix.MS_SHARED|unix.MS_REMOUNT) == 0 {
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
}
