// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cloister/sys"
)

// Names of the modules in the policy store: the types and rules, and beside them the constraints,
// which the module language does not have. They are installed and removed together. A module
// without the constraints would load, and would leave sockets and pipes of two sandboxes open to
// each other on Fedora's policy.
const (
	Name            = "cloister"
	ConstraintsName = "cloister_mcs"
)

// Modules are the names of both.
func Modules() []string { return []string{Name, ConstraintsName} }

// The types of the module. Each is described in the room's README.
const (
	ShimType          = "cloister_shim_t"
	ShimExecType      = "cloister_shim_exec_t"
	QEMUType          = "cloister_qemu_t"     // QEMU with KVM
	QEMUTCGType       = "cloister_qemu_tcg_t" // QEMU that translates code
	VirtiofsdType     = "cloister_virtiofsd_t"
	VirtiofsdExecType = "cloister_virtiofsd_exec_t"
	ImageType         = "cloister_image_t"
	RootfsType        = "cloister_rootfs_t"
	ContentType       = "cloister_content_t"
	RunType           = "cloister_run_t"
	VarLibType        = "cloister_var_lib_t"
	TemplateType      = "cloister_template_tmpfs_t" // memory that many machines map
	ContainerType     = "cloister_container_t"
	ContainerFileType = "cloister_container_file_t"
)

//go:embed module/cloister.te module/cloister.fc module/cloister.if module/cloister_mcs.cil
var sources embed.FS

// Source returns the text of one of the module's files: "te", "fc", "if", or "cil" for the
// constraints.
func Source(kind string) ([]byte, error) {
	if kind == "cil" {
		return sources.ReadFile("module/" + ConstraintsName + ".cil")
	}
	return sources.ReadFile("module/" + Name + "." + kind)
}

// sourceKinds are what the module is made of.
func sourceKinds() []string { return []string{"te", "fc", "if", "cil"} }

// Digest tells one version of the module's sources from another, in hex. It needs no policy tools.
func Digest() string {
	sum := sha256.New()
	for _, kind := range sourceKinds() {
		text, err := Source(kind)
		if err != nil {
			panic(err) // embedded
		}
		sum.Write(text)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Built are the files that a policy store takes, in the folder that Build was given.
type Built struct {
	Package     string // the module, compiled
	Constraints string // in the common intermediate language
}

// Build compiles the module in dir, which exists, with checkmodule and semodule_package. The
// sources are left beside it. It needs no root and touches no store. The module is plain: it
// compiles without the headers of the host's policy.
func Build(ctx context.Context, dir string) (Built, error) {
	file := func(kind string) string {
		if kind == "cil" {
			return filepath.Join(dir, ConstraintsName+".cil")
		}
		return filepath.Join(dir, Name+"."+kind)
	}
	for _, kind := range sourceKinds() {
		text, err := Source(kind)
		if err != nil {
			return Built{}, fmt.Errorf("policy source %q: %w", kind, err)
		}
		if err := os.WriteFile(file(kind), text, 0o600); err != nil {
			return Built{}, fmt.Errorf("policy source: %w", err)
		}
	}
	if _, err := run(ctx, "checkmodule", "-M", "-m", "-o", file("mod"), file("te")); err != nil {
		return Built{}, err
	}
	if _, err := run(ctx, "semodule_package", "-o", file("pp"), "-m", file("mod"), "-f", file("fc")); err != nil {
		return Built{}, err
	}
	return Built{Package: file("pp"), Constraints: file("cil")}, nil
}

// packages says where the programs come from, for who has not got them.
var packages = map[string]string{ //nolint:gochecknoglobals // a table
	"checkmodule":      "checkpolicy",
	"semodule_package": "semodule-utils",
	"semodule":         "policycoreutils",
	"restorecon":       "policycoreutils",
}

// run runs a program of the policy tools and returns what it printed; its messages are in the
// error. LC_ALL is C, because the output of semodule is parsed. A program that is missing is named
// with the package that has it.
func run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := sys.Program(name)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed: install the package %s: %w", name, packages[name], err)
	}
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, messages strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(messages.String()+out.String()))
	}
	return out.String(), nil
}
