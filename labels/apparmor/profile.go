// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	_ "embed"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"cloister/labels"
)

// The children of a sandbox's profile: one for each program of a machine, or one for all processes
// of plain containers.
const (
	QEMU      = "qemu"
	Virtiofsd = "virtiofsd"
	Container = "container"
)

// prefix begins the name of every sandbox's profile.
const prefix = "cloister-"

var (
	//go:embed profile.tmpl
	machineText string
	//go:embed container.tmpl
	containerText string
)

// Profile is everything that differs between the profiles of two sandboxes. All paths are absolute
// and as the kernel resolves them: no component is a symbolic link. AppArmor compares the path of
// the file that is opened, after links, so a rule for a link's name would allow nothing.
type Profile struct {
	// Name is what NameOf gives.
	Name string
	// Plain is a sandbox of plain containers, whose profile has no paths: all below is a machine's.
	Plain bool
	// QEMU and Virtiofsd are the programs.
	QEMU, Virtiofsd string
	// Guest are the files that QEMU opens by name: kernel and initial image. All else it gets as
	// open descriptors, which an unconfined shim opened and which are not checked again.
	Guest []string
	// Share is the folder that virtiofsd serves, with all that is mounted below it.
	Share string
	// KVM is whether QEMU may open /dev/kvm.
	KVM bool
	// Attacker is a program that stands for one that a guest has taken over, for `cloister prove`;
	// empty: none. It may be mapped and gets no right that the program in whose place it runs has
	// not.
	Attacker string
}

// NameOf is the name of the profile of the sandbox at a level, which has to be a pair: pairs are
// unique on the host, and so the names are. It is "cloister-cN-cM", which Remove and the journal
// insist on.
func NameOf(level labels.Level) (string, error) {
	pair, ok := level.Pair()
	if !ok {
		return "", fmt.Errorf("profile name: level %v is not a pair of categories", level)
	}
	return fmt.Sprintf("%s%v-%v", prefix, pair.Low, pair.High), nil
}

// IsName tells whether a profile's name is one that NameOf gives.
func IsName(name string) bool { return goodName.MatchString(name) }

// Child is the name of the profile of one program, as the kernel shows it and SetExec takes it.
func Child(name, program string) string { return name + "//" + program }

var (
	goodName = regexp.MustCompile(`^cloister-c[0-9]+-c[0-9]+$`)
	// goodPath leaves out what a rule gives a meaning: quotes, blanks, variables and patterns.
	goodPath = regexp.MustCompile(`^/[A-Za-z0-9/._+:=~%-]*$`)
)

// Text is the profile as apparmor_parser reads it. It is pure. Paths with a character that has a
// meaning in a rule are refused and not quoted: a folder's name could otherwise add rules.
func (p Profile) Text() (string, error) {
	if !goodName.MatchString(p.Name) {
		return "", fmt.Errorf("profile name %q: want %scN-cM", p.Name, prefix)
	}
	text := machineText
	if p.Plain {
		text = containerText
	}
	for _, path := range p.paths() {
		if !goodPath.MatchString(path) || filepath.Clean(path) != path || path == "/" {
			return "", fmt.Errorf("profile %s: path %q: want an absolute path of letters, digits and /._+:=~%%-: "+
				"anything else has a meaning in a rule: use another path", p.Name, path)
		}
	}
	parsed, err := template.New("profile").Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := parsed.Execute(&out, p); err != nil {
		return "", fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return out.String(), nil
}

// paths are those that the profile's rules name.
func (p Profile) paths() []string {
	if p.Plain {
		return nil
	}
	paths := append([]string{p.QEMU, p.Virtiofsd, p.Share}, p.Guest...)
	if p.Attacker != "" {
		paths = append(paths, p.Attacker)
	}
	return paths
}
