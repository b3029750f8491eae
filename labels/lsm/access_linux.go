// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"cloister/labels"
)

// Decision is the kernel's answer to a question.
type Decision struct {
	// Allowed is whether every permission asked for would be granted by the rules.
	Allowed bool
	// Permissive is whether the source's domain is permissive by itself: its denials are logged and
	// not enforced.
	Permissive bool
	// Missing names the permissions that would be denied.
	Missing []string
}

// Access asks the kernel, constraints included, whether source may do perms on target. The question
// is put to the security server and leaves no denial in the audit log. A class or permission that
// the policy does not have is an error that wraps fs.ErrNotExist. The kernel allows or denies such
// classes as a whole (Status.DenyUnknown).
func (h Host) Access(source, target labels.Label, class string, perms ...string) (Decision, error) {
	index, err := h.number("class", class, "index")
	if err != nil {
		return Decision{}, fmt.Errorf("ask SELinux: class %s: %w", class, err)
	}
	answer, err := h.transact("access", fmt.Sprintf("%v %v %d", source, target, index))
	if err != nil {
		return Decision{}, fmt.Errorf("ask SELinux whether %v may use %v (%s): %w", source, target, class, err)
	}
	allowed, permissive, err := parseDecision(answer)
	if err != nil {
		return Decision{}, fmt.Errorf("ask SELinux: answer %q: %w", answer, err)
	}
	decision := Decision{Permissive: permissive}
	for _, perm := range perms {
		bit, err := h.number("class", class, "perms", perm)
		if err != nil {
			return Decision{}, fmt.Errorf("ask SELinux: permission %s of class %s: %w", perm, class, err)
		}
		// Permissions are numbered from 1; the answer is a mask of 32 bits.
		if bit < 1 || bit > 32 || allowed&(1<<(bit-1)) == 0 {
			decision.Missing = append(decision.Missing, perm)
		}
	}
	decision.Allowed = len(decision.Missing) == 0
	return decision, nil
}

// parseDecision reads "allowed decided auditallow auditdeny sequence flags": words in hex, the
// sequence in decimal. See sel_write_access in the kernel's security/selinux/selinuxfs.c.
func parseDecision(answer string) (allowed uint32, permissive bool, err error) {
	const permissiveFlag = 1 // AVD_FLAGS_PERMISSIVE
	fields := strings.Fields(answer)
	if len(fields) < 6 {
		return 0, false, fmt.Errorf("%d fields, want 6", len(fields))
	}
	bits, err := strconv.ParseUint(fields[0], 16, 32)
	if err != nil {
		return 0, false, err
	}
	flags, err := strconv.ParseUint(fields[5], 16, 32)
	if err != nil {
		return 0, false, err
	}
	return uint32(bits), flags&permissiveFlag != 0, nil
}

// Valid asks whether the loaded policy knows the label: its user, role, type and range together. An
// unknown one would be refused later by attr/exec or setxattr with a bare EINVAL; here the error
// says what to look at.
func (h Host) Valid(label labels.Label) error {
	if label.IsZero() {
		return fmt.Errorf("%w: it is empty", ErrInvalid)
	}
	if _, err := h.transact("context", label.String()); err != nil {
		return fmt.Errorf("%w: %v: %w: is its type in the loaded policy (seinfo -t) and its role allowed to have it?",
			ErrInvalid, label, err)
	}
	return nil
}

// Created asks which label the policy gives what a process at source makes in a place at target.
func (h Host) Created(source, target labels.Label, class string) (labels.Label, error) {
	index, err := h.number("class", class, "index")
	if err != nil {
		return labels.Label{}, fmt.Errorf("ask SELinux: class %s: %w", class, err)
	}
	answer, err := h.transact("create", fmt.Sprintf("%v %v %d", source, target, index))
	if err != nil {
		return labels.Label{}, fmt.Errorf("ask SELinux what %v makes in %v (%s): %w", source, target, class, err)
	}
	label, err := labels.Parse(answer)
	if err != nil {
		return labels.Label{}, fmt.Errorf("ask SELinux: answer %q: %w", answer, err)
	}
	return label, nil
}

// number reads a small number from a file of selinuxfs. The parts become a path, so a class or
// permission with a slash or a dot is refused.
func (h Host) number(parts ...string) (int, error) {
	for _, part := range parts {
		if part == "" || strings.ContainsAny(part, "/.") {
			return 0, fmt.Errorf("%q is not a policy name", part)
		}
	}
	text, err := os.ReadFile(h.selinux(parts...))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
