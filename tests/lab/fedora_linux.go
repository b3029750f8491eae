// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The policies that the lab's host may have: Debian's own, and Debian's built with Fedora's
// conditions.
const (
	debianPolicy = "debian"
	fedoraPolicy = "fedora"
)

// chosenPolicy is what POLICY says, as in make test-lab MAC=selinux POLICY=fedora.
func chosenPolicy() (string, error) {
	switch name := os.Getenv("POLICY"); name {
	case "", debianPolicy:
		return debianPolicy, nil
	case fedoraPolicy:
		return name, nil
	default:
		return "", fmt.Errorf("POLICY=%s: want %s or %s", name, debianPolicy, fedoraPolicy)
	}
}

// engineTypes are what the two engines' programs are labelled with: on Debian they run as init's
// scripts do.
func engineTypes(kind string) (first, second string) {
	if kind == fedoraPolicy {
		return "container_runtime_exec_t", "unconfined_service_exec_t"
	}
	return "bin_t", "bin_t"
}

// fileServerType is what a policy without cloister's module labels the file server's program with.
func fileServerType(kind string) string {
	if kind == fedoraPolicy {
		return "bin_t"
	}
	return "lib_t"
}

//go:embed fedora
var fedoraSources embed.FS

// policySource is what Debian's package selinux-policy-src installs.
const policySource = "/usr/src/selinux-policy-src.tar.zst"

// fedoraDigest tells one version of the conditions from another.
func fedoraDigest() string {
	var all strings.Builder
	for _, name := range []string{"mcs", "labfedora.te", "labfedora.fc", "labfedora.if"} {
		text, err := fedoraSources.ReadFile("fedora/" + name)
		if err != nil {
			panic(err) // embedded
		}
		all.Write(text)
	}
	return all.String()
}

// makeFedora puts Fedora's conditions into a store of Debian's policy: its base module is built
// again with other constraints and the class user_namespace, and a module brings the types of
// Fedora's policy and container-selinux. /run is rewritten to /var/run, as on RHEL 9.
func makeFedora(ctx context.Context, work, store string) error {
	if err := tool(ctx, "tar", "--zstd", "-C", work, "-xf", policySource); err != nil {
		return fmt.Errorf("install the package selinux-policy-src: %w", err)
	}
	source := filepath.Join(work, "selinux-policy-src")
	for from, to := range map[string]string{
		"labfedora.te": "policy/modules/services",
		"labfedora.fc": "policy/modules/services", "labfedora.if": "policy/modules/services",
	} {
		text, err := fedoraSources.ReadFile("fedora/" + from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(source, to, from), text, 0o644); err != nil {
			return err
		}
	}
	mcs, err := fedoraSources.ReadFile("fedora/mcs")
	if err != nil {
		return err
	}
	for _, change := range []struct {
		path string
		do   func(string) string
	}{
		{"policy/mcs", func(string) string { return "ifdef(`enable_mcs',`\n" + withoutComments(string(mcs)) + "')\n" }},
		{"policy/modules.conf", func(string) string {
			text, err := os.ReadFile(filepath.Join(source, "policy/modules.conf.default"))
			if err != nil {
				return err.Error()
			}
			return string(text) + "labfedora = module\n"
		}},
		{"policy/flask/security_classes", func(text string) string {
			end := strings.LastIndex(text, "# FLASK")
			return text[:end] + "class user_namespace\n\n" + text[end:]
		}},
		{"policy/flask/access_vectors", func(text string) string { return text + "\nclass user_namespace\n{\n\tcreate\n}\n" }},
	} {
		path := filepath.Join(source, change.path)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(change.do(string(text))), 0o644); err != nil {
			return err
		}
	}
	if err := tool(ctx, "make", "-C", source, "NAME=default", "TYPE=mcs", "DISTRO=debian", "DIRECT_INITRC=y",
		"MONOLITHIC=n", "UBAC=y", "SYSTEMD=y",
		"UNK_PERMS=allow", "MLS_CATS=1024", "MCS_CATS=1024", "MLS_SENS=16", "base.pp", "labfedora.pp"); err != nil {
		return err
	}
	err = tool(ctx, "semodule", "-n", "-p", store, "-s", "default", "-X", "200",
		"-i", filepath.Join(source, "base.pp"), "-i", filepath.Join(source, "labfedora.pp"))
	if err != nil {
		return err
	}
	return rewriteRun(store)
}

// withoutComments drops what m4 would read quotes in.
func withoutComments(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// rewriteRun has file contexts looked up below /var/run for what is below /run, as RHEL 9 does.
func rewriteRun(store string) error {
	path := filepath.Join(store, "etc/selinux/default/contexts/files/file_contexts.subs_dist")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "/var/run ") && !strings.HasPrefix(line, "/run ") {
			kept.WriteString(line)
		}
	}
	return os.WriteFile(path, []byte(kept.String()+"/run /var/run\n"), 0o644)
}
