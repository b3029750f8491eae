// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/labels/policy"
	"cloister/tests/cache"
)

// policies are compiled policies with the module in them: one that enforces, one whose guest-side
// domains are permissive, and one whose shim is. None has dontaudit rules, so that every denial is
// logged. base is without the module; store is the policy store that base is made from.
type policies struct{ dir string }

func (p policies) enforcing() string  { return filepath.Join(p.dir, "policy") }
func (p policies) base() string       { return filepath.Join(p.dir, "base") }
func (p policies) store() string      { return filepath.Join(p.dir, "store.tar") }
func (p policies) probing() string    { return filepath.Join(p.dir, "probing") }
func (p policies) permissive() string { return filepath.Join(p.dir, "permissive") }
func (p policies) proving() string    { return filepath.Join(p.dir, "proving") }

// permissiveDomains are those that the matrix attacks from.
func permissiveDomains() []string {
	return []string{policy.QEMUType, policy.QEMUTCGType, policy.VirtiofsdType, policy.ContainerType}
}

// The one domain whose sockets a site lets guests use, with the rule that `cloister why` names, and
// another one.
const (
	servingDomain = "postgresql_t"
	otherDomain   = "httpd_t"
	siteRule      = "(optional cloister_socket_" + servingDomain + " (typeattributeset cloister_socket_server (" + servingDomain + ")))\n"
)

// probeRules give the matrix's attackers rights that guests' domains lack: to open disks by name,
// to make sockets and talk to each other's, to map and execute served files, to change priorities
// and limits. So the category pair alone is in the way.
const probeRules = `(allow cloister_machine_domain cloister_image_t (file (open)))
(allow cloister_machine_domain cloister_image_t (blk_file (open)))
(allow cloister_guest_domain self (unix_stream_socket (create setattr bind connect listen accept read write connectto)))
(allow cloister_machine_domain cloister_virtiofsd_t (unix_stream_socket (connectto)))
(allow cloister_guest_domain self (unix_dgram_socket (create setattr bind connect read write sendto)))
(allow cloister_guest_domain self (fifo_file (open read write append)))
(allow cloister_guest_domain self (process (setsched setrlimit setpgid setcap)))
(allow cloister_virtiofsd_t cloister_rootfs_t (file (map execute)))
`

// addRules puts a module in the common language into a store.
func addRules(ctx context.Context, store, name, rules string) error {
	file := filepath.Join(store, name+".cil")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		return err
	}
	return tool(ctx, "semodule", "-n", "-D", "-p", store, "-s", "default", "-i", file)
}

// makePolicies returns them from the cache, or compiles them with the module as it is now. Every
// neverallow rule, the base policy's and the module's, is checked on the way.
func makePolicies(ctx context.Context, folder string, r root, kind string) (policies, error) {
	conditions := kind
	if kind == fedoraPolicy {
		conditions += fedoraDigest() + "systemd"
	}
	conditions += "proving"
	// The number stands for the steps below: raise it with a change that the rest of the digest
	// does not show.
	sum := sha256.Sum256([]byte(r.dir + conditions + policy.Digest() + strings.Join(permissiveDomains(),
		",") + siteRule + probeRules + "4"))
	made := policies{filepath.Join(folder, "lab", "policy-"+hex.EncodeToString(sum[:8]))}
	return made, cache.Make(made.dir, func() error { return makePoliciesInto(ctx, r, made, kind) })
}

func makePoliciesInto(ctx context.Context, r root, made policies, kind string) error {
	work, err := os.MkdirTemp(filepath.Dir(made.dir), ".policy-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := tool(ctx, "cp", "-a", r.store(), work); err != nil {
		return err
	}
	store := filepath.Join(work, "store")
	if kind == fedoraPolicy {
		if err := makeFedora(ctx, work, store); err != nil {
			return err
		}
	}
	if err := checkNeverallow(store, true); err != nil {
		return err
	}
	parts := policies{filepath.Join(work, "parts")}
	if err := os.Mkdir(parts.dir, 0o755); err != nil {
		return err
	}
	if err := takePolicy(ctx, store, parts.base()); err != nil {
		return err
	}
	if err := tool(ctx, "tar", "-C", store, "-cf", parts.store(), "etc/selinux/default", "var/lib/selinux/default"); err != nil {
		return err
	}
	if err := (policy.Store{Root: store, Audit: true}).Install(ctx); err != nil {
		return err
	}
	if err := addRules(ctx, store, "lab-site", siteRule); err != nil {
		return err
	}
	if err := takePolicy(ctx, store, parts.enforcing()); err != nil {
		return err
	}
	if err := makeBroader(ctx, store, parts); err != nil {
		return err
	}
	return os.Rename(parts.dir, made.dir)
}

// makeBroader makes the policies of the matrix, which allow more than the module does, on purpose.
func makeBroader(ctx context.Context, store string, parts policies) error {
	if err := checkNeverallow(store, false); err != nil {
		return err
	}
	if err := addRules(ctx, store, "lab-probing", probeRules); err != nil {
		return err
	}
	if err := takePolicy(ctx, store, parts.probing()); err != nil {
		return err
	}
	var text strings.Builder
	for _, domain := range permissiveDomains() {
		fmt.Fprintf(&text, "(typepermissive %s)\n", domain)
	}
	if err := addRules(ctx, store, "lab-permissive", text.String()); err != nil {
		return err
	}
	if err := takePolicy(ctx, store, parts.permissive()); err != nil {
		return err
	}
	return addProving(ctx, store, parts.proving())
}

// addProving takes back what the other policies of the matrix have, and has the shim permissive.
// `cloister prove` runs in its domain, which alone may enter those of guests, and makes its attacks
// without a layer there: nothing may stop these.
func addProving(ctx context.Context, store, to string) error {
	rules := filepath.Join(store, "lab-permissive.cil")
	if err := os.WriteFile(rules, []byte("(typepermissive "+policy.ShimType+")\n"), 0o644); err != nil {
		return err
	}
	if err := tool(ctx, "semodule", "-n", "-D", "-p", store, "-s", "default", "-r", "lab-probing", "-i", rules); err != nil {
		return err
	}
	return takePolicy(ctx, store, to)
}

// checkNeverallow has the store check what it compiles, or not: Debian's does not.
func checkNeverallow(store string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	path := filepath.Join(store, "etc/selinux/semanage.conf")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "expand-check") {
			kept.WriteString(line)
		}
	}
	return os.WriteFile(path, []byte(kept.String()+"\nexpand-check="+value+"\n"), 0o644)
}

func takePolicy(ctx context.Context, store, to string) error {
	found, err := filepath.Glob(filepath.Join(store, "etc/selinux/default/policy/policy.*"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("compiled policies: %q, want one: %w", found, err)
	}
	return tool(ctx, "cp", found[0], to)
}
