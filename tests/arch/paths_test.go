// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

// byPath are calls that resolve a name. In a folder that a guest can change, the name may lead
// anywhere.
var byPath = map[string]string{
	"os": "Open OpenFile OpenRoot Create Stat Lstat ReadFile WriteFile ReadDir Mkdir MkdirAll MkdirTemp Remove RemoveAll Rename " +
		"Readlink Symlink Link Chmod Chown Truncate StartProcess",
	"unix": "Open Openat Stat Lstat Mount Unmount Chdir Mkdir Rename Unlink Rmdir Symlink Link Mknod Chmod Chown " +
		"InotifyAddWatch OpenTree MoveMount",
	"filepath": "EvalSymlinks Glob Walk WalkDir",
	"mount":    "Mount",
}

// guestsFolders are the packages that handle what guests can change.
var guestsFolders = []string{"sandbox/content", "sandbox/watch", "runtime/stdio"}

// resolved are the calls there that may resolve a name, by file, function and call, with the
// reason. Everything else goes by descriptor: package sys has what is needed.
var resolved = map[string]string{
	"sandbox/content/disk_linux.go blockNode Readlink":               "sysfs",
	"sandbox/content/disk_linux.go blockNode Stat":                   "a node of /dev, whose number is checked",
	"sandbox/content/disk_linux.go MakeFileSystem OpenFile":          "an engine's snapshot: made anew or left alone (O_EXCL)",
	"sandbox/content/disk_linux.go MakeFileSystem Remove":            "the image that was just made there",
	"sandbox/content/mount_linux.go clone OpenTree":                  "a descriptor with an empty path",
	"sandbox/content/mount_linux.go moveOnto MoveMount":              "two descriptors with empty paths",
	"sandbox/content/mount_linux.go moveTo OpenFile":                 "folders of the state folder and of the sandbox's own file system",
	"sandbox/content/mount_linux.go detach Unmount":                  "the path of a descriptor",
	"sandbox/content/owners_linux.go openUserNamespace Open":         "procfs",
	"sandbox/content/owners_linux.go openUserNamespace StartProcess": "this program",
	"sandbox/content/rootfs_linux.go BlockDevices Stat":              "an engine's snapshot",
	"sandbox/content/rootfs_linux.go OpenRootfs OpenFile":            "an engine's snapshot or its mounted root: opened once",
	"sandbox/content/rootfs_linux.go bind OpenFile":                  "an engine's snapshot",
	"sandbox/content/rootfs_linux.go mountAt Mount":                  "the target is the path of a descriptor; the layers are an engine's",
	"sandbox/content/rootfs_linux.go mountAt Chdir":                  "the folder of an engine's layers",
	"sandbox/content/rootfs_linux.go mapLayers OpenFile":             "the folder of an engine's layers",
	"sandbox/content/rootfs_linux.go mapLayers MkdirTemp":            "the sandbox's own file system, which no guest sees",
	"sandbox/content/rootfs_linux.go mapLayers Remove":               "the same",
	"sandbox/content/rootfs_linux.go mapLayers Unmount":              "the same",
	"sandbox/content/rootfs_linux.go mappableMount OpenFile":         "an engine's snapshot",
	"sandbox/content/rules_linux.go Rules EvalSymlinks":              "names of the configuration",
	"sandbox/content/share_linux.go NewShare OpenFile":               "a folder of the state folder",
	"sandbox/content/source_linux.go openSource OpenFile":            "what the user names, as the user means it: opened once",
	"sandbox/content/source_linux.go openLeaf Openat":                "one name in an open folder, without following a link",
	"sandbox/content/source_linux.go describe Readlink":              "the name that an open file has, for messages and rules",
	"sandbox/watch/tree_linux.go Open OpenRoot":                      "the path of a descriptor; below it nothing leaves the root",
	"runtime/stdio/fifo_linux.go openFIFOSink OpenFile":              "a client's FIFO",
	"runtime/stdio/fifo_linux.go openReader OpenFile":                "the same",
	"runtime/stdio/fifo_linux.go openSource Stat":                    "the same",
	"runtime/stdio/fifo_linux.go openSource OpenFile":                "the same",
	"runtime/stdio/stdio_linux.go openLog MkdirAll":                  "a client's log: its folder, as the client means it",
	"runtime/stdio/stdio_linux.go openLog OpenFile":                  "the same: opened once, the file in it by descriptor",
	"runtime/stdio/stdio_linux.go openSink Stat":                     "a client's FIFO or file",
	"runtime/stdio/stdio_linux.go openSink OpenFile":                 "the same",
}

// TestNamesAreResolvedOnce: where guests can change names, files are used by descriptor.
func TestNamesAreResolvedOnce(t *testing.T) {
	used := map[string]bool{}
	for _, f := range files(t) {
		if f.isTest() || !slices.Contains(guestsFolders, f.dir()) {
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), f.path, f.source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range syntax.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(function, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				selector, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				room, ok := selector.X.(*ast.Ident)
				if !ok || !slices.Contains(strings.Fields(byPath[room.Name]), selector.Sel.Name) {
					return true
				}
				key := fmt.Sprintf("%s %s %s", f.path, function.Name.Name, selector.Sel.Name)
				used[key] = true
				if resolved[key] == "" {
					t.Errorf("%q: a guest may change what the name means: use a descriptor (package sys), or give the reason here", key)
				}
				return true
			})
		}
	}
	for key := range maps.Keys(resolved) {
		if !used[key] {
			t.Errorf("%q is listed and nowhere", key)
		}
	}
}
