// SPDX-License-Identifier: Apache-2.0

package lab

import "cloister/labels/policy"

// The plain containers that run during the matrix: one by each OCI runtime.
const (
	byCrun = "plain-crun"
	byRunc = "plain-runc"
)

// onPlain is what containers of class process, which the shim under test has started, and running
// machines try on each other, and what such a container tries on another engine's.
func onPlain() []attempt {
	var all []attempt
	for _, list := range [][]attempt{plainOnPlain(), plainOnMachine(), machineOnPlain(), plainOnOther()} {
		all = append(all, list...)
	}
	return all
}

// between sets who attacks whom, under a prefix that tells the rows of a pair from others'.
func between(by, against, prefix string, lists ...[]attempt) []attempt {
	var all []attempt
	for _, list := range lists {
		for _, a := range list {
			a.by, a.against, a.name = by, against, prefix+a.name
			all = append(all, a)
		}
	}
	return all
}

// ofProcess is what one process may do to another of its own container.
func ofProcess() []row {
	const kind = policy.ContainerType
	return []row{
		{"signal", "kill {container.pid} 18", kind, "process", "signal"},
		{"scheduling", "setsched {container.pid}", kind, "process", "setsched"},
		{"memory map", "open /proc/{container.pid}/maps", kind, "dir", "search"},
		{"environment", "open /proc/{container.pid}/environ", kind, "dir", "search"},
		{"open files", "list /proc/{container.pid}/fd", kind, "dir", "search"},
		{"root", "open /proc/{container.pid}/root/bin/busybox", kind, "dir", "search"},
		{"label", "open /proc/{container.pid}/attr/current", kind, "dir", "search"},
	}
}

func plainOnPlain() []attempt {
	pair := each("container", mcs, append(ofProcess(),
		row{"volume", "open {dir}/volume/file", policy.ContainerFileType, "dir", "search"},
	), nil)
	handed := attempt{
		name: "volume, inherited", from: "container", tag: mcs, try: "inherited write", open: "rw:{dir}/volume/file",
		want: want{policy.ContainerType, policy.ContainerFileType, "file", "write"},
	}
	kinds := each("container", te, []row{
		{"trace", "seize {container.pid}", policy.ContainerType, "process", "ptrace"},
		{"memory", "vmread {container.pid}", policy.ContainerType, "process", "ptrace"},
		{"shim: signal", "kill {shim.pid} 18", policy.ShimType, "process", "signal"},
		{"shim: trace", "seize {shim.pid}", policy.ShimType, "process", "ptrace"},
		{"shim: open files", "list /proc/{shim.pid}/fd", policy.ShimType, "dir", "search"},
		{"record", "open {state}/record.json", policy.RunType, "dir", "search"},
		{"state of the OCI runtime", "list {state}/runtime", policy.RunType, "dir", "search"},
	}, nil)
	return between(byCrun, byRunc, "plain, by runc: ", pair, []attempt{handed}, kinds)
}

func plainOnMachine() []attempt {
	return between(byCrun, "first", "plain, running machine: ", each("container", te, []row{
		{"signal to QEMU", "kill {qemu.pid} 18", policy.QEMUType, "process", "signal"},
		{"trace of QEMU", "seize {qemu.pid}", policy.QEMUType, "process", "ptrace"},
		{"memory map of QEMU", "open /proc/{qemu.pid}/maps", policy.QEMUType, "dir", "search"},
		{"signal to the file server", "kill {virtiofsd.pid} 18", policy.VirtiofsdType, "process", "signal"},
		{"root of the file server", "open /proc/{virtiofsd.pid}/root", policy.VirtiofsdType, "dir", "search"},
		{"record", "open {dir}/record.json", policy.RunType, "dir", "search"},
	}, nil))
}

// machineOnPlain has the file server denied a container's volume by its pair alone: engines may
// label volumes of both classes with one type.
func machineOnPlain() []attempt {
	var all []attempt
	for _, from := range []string{"qemu", "virtiofsd"} {
		list := each(from, te, []row{
			{"signal", "kill {container.pid} 18", policy.ContainerType, "process", "signal"},
			{"trace", "seize {container.pid}", policy.ContainerType, "process", "ptrace"},
			{"memory map", "open /proc/{container.pid}/maps", policy.ContainerType, "dir", "search"},
			{"root", "open /proc/{container.pid}/root/bin/busybox", policy.ContainerType, "dir", "search"},
			{"volume", "open {dir}/volume/file", policy.ContainerFileType, "dir", "search"},
		}, nil)
		list = append(list, attempt{
			name: "volume, inherited", from: from, tag: te, try: "inherited write", open: "rw:{dir}/volume/file",
			want: want{domains()[from].kind, policy.ContainerFileType, "file", "write"},
		})
		for i := range list {
			list[i].own = "getsched {" + from + ".pid}"
			if from == "virtiofsd" && list[i].want.target == policy.ContainerFileType {
				list[i].tag = mcs
			}
		}
		all = append(all, list...)
	}
	return between("first", byCrun, "running, plain: ", all)
}

// plainOnOther is about a container that another engine has started under the types of our policy:
// party B's.
func plainOnOther() []attempt {
	pair := append(ofProcess()[:6:6],
		row{"volume", "open {dir}/volume/file", policy.ContainerFileType, "dir", "search"},
		row{"shared memory", "shm-attach {container.number}", policy.ContainerType, "shm", "unix_read"},
		row{"key", "key-read {container.key}", policy.ContainerType, "key", "read"},
		row{"socket", "connect {container.name}", policy.ContainerType, "unix_stream_socket", "connectto"},
	)
	list := each("container", mcs, pair, func(a *attempt) {
		switch a.name {
		case "root":
			a.try = "open /proc/{container.pid}/root/dev/null"
		case "shared memory", "key", "socket": // the attacker's own container has none of these
			a.own = "open-rw {dir}/volume/file"
		}
	})
	return between(byCrun, "b", "plain, another engine's: ", list,
		each("container", te, []row{{"trace", "seize {container.pid}", policy.ContainerType, "process", "ptrace"}}, nil))
}
