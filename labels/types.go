// SPDX-License-Identifier: Apache-2.0

package labels

// Types are the policy's types that one sandbox uses. The kernel is asked whether a set works here
// (lsm.Driver.ChooseTypes).
type Types struct {
	// Name is what the config calls the set.
	Name string
	// QEMU and Virtiofsd are domains.
	QEMU, Virtiofsd string
	// Image is of disks, Rootfs of folders that virtiofsd serves, Content of what every guest may
	// read, Run of the sandbox's own folder, log and sockets on disk.
	Image, Rootfs, Content, Run string
	// PoweredOff is of a disk that cloister made and nobody runs: no guest may read it.
	PoweredOff string
	// Template is of memory that the machines of many sandboxes map and nobody can change; empty:
	// the policy has no such type.
	Template string
	// EngineFile and EngineContent are what engines label volumes and root file systems with, where
	// the file server may use them beside Rootfs and Content; the policy has rules for them only
	// where it has these types.
	EngineFile, EngineContent string
	// PlainFile is ContainerFile if the file server may use folders of that type too: engines label
	// the files of both classes alike.
	PlainFile string
	// Container and ContainerFile are of plain containers of the host.
	Container, ContainerFile string
	// Shared is of folders that several sandboxes may write; empty: Rootfs.
	Shared string
}

// Own are the types of cloister's module. Without KVM, QEMU translates code and needs memory that
// is written and executed; its domain is another, so that guests with KVM do not have that right.
func Own(kvm bool) Types {
	t := Types{
		Name: own, QEMU: "cloister_qemu_t", Virtiofsd: "cloister_virtiofsd_t",
		Image: "cloister_image_t", Rootfs: "cloister_rootfs_t", Content: "cloister_content_t", Run: "cloister_run_t",
		PoweredOff: "cloister_var_lib_t", EngineFile: "container_file_t", EngineContent: "container_ro_file_t",
		Container: "cloister_container_t", ContainerFile: "cloister_container_file_t", PlainFile: "cloister_container_file_t",
		Template: "cloister_template_tmpfs_t",
	}
	if !kvm {
		t.QEMU = "cloister_qemu_tcg_t"
	}
	return t
}

// Plain are the types of a set as plain containers of the host use them: they are run as Container,
// and their files are ContainerFile. What they share with other sandboxes has the machines' type,
// so that both classes can use one shared volume.
func (t Types) Plain() Types {
	if t.ours() {
		t.Shared = t.Rootfs
	}
	t.QEMU, t.Virtiofsd, t.Image, t.Rootfs = t.Container, t.Container, t.ContainerFile, t.ContainerFile
	return t
}

// own is the name of the set of cloister's module.
const own = "cloister"

// ours is true for the types of cloister's module, and for those that a sandbox has instead of some
// of them.
func (t Types) ours() bool { return t.Name == own }

// ContainerKVM are container-selinux's: one domain for both processes and one type for all files.
func ContainerKVM() Types {
	return Types{
		Name: "container_kvm", QEMU: "container_kvm_t", Virtiofsd: "container_kvm_t",
		Image: "container_file_t", Rootfs: "container_file_t", Content: "container_ro_file_t", Run: "container_file_t",
		PoweredOff: "container_var_lib_t", Container: "container_t", ContainerFile: "container_file_t",
	}
}

// Svirt are libvirt's.
func Svirt(kvm bool) Types {
	t := Types{
		Name: "svirt", QEMU: "svirt_t", Virtiofsd: "svirt_t",
		Image: "svirt_image_t", Rootfs: "svirt_image_t", Content: "virt_content_t", Run: "svirt_image_t",
		PoweredOff: "virt_image_t", Container: "container_t", ContainerFile: "container_file_t",
	}
	if !kvm {
		t.QEMU = "svirt_tcg_t"
	}
	return t
}

// Candidates are the sets in the order they are tried: cloister's own first, which grant least.
func Candidates(kvm bool) []Types { return []Types{Own(kvm), ContainerKVM(), Svirt(kvm)} }
