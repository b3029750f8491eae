// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cloister/sandbox/jail"
	"cloister/vmm/virtiofsd"
)

// TestCheckWarnsAboutPartsThatAreOff: a part of the jail that the configuration leaves out is a
// warning that names the line to remove. The others are on; of Landlock the kernel decides.
func TestCheckWarnsAboutPartsThatAreOff(t *testing.T) {
	for _, off := range jail.Parts() {
		s := fakeSite(t, nil)
		s.config.Jail.Disable = []jail.Part{off}
		found := map[string]finding{}
		for _, f := range checkJail(t.Context(), s) {
			found[f.Name] = f
		}
		for _, p := range jail.Parts() {
			f := found[string(p)]
			if p == off && (f.Grade != gradeWarn || !strings.Contains(f.Remedy, fmt.Sprintf("%q", p))) {
				t.Errorf("without %s: %+v, want a warning that names it", p, f)
			}
			if p != off && p != jail.Landlock && f.Grade != gradeOK {
				t.Errorf("%s without %s: %+v, want ok", p, off, f)
			}
		}
	}
}

// TestCheckNamesWhatVirtiofsdKeeps: the capabilities that are left are in the line that says ok.
func TestCheckNamesWhatVirtiofsdKeeps(t *testing.T) {
	const kept = "CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP, MKNOD"
	list := checkJail(t.Context(), fakeSite(t, nil))
	i := slices.IndexFunc(list, func(f finding) bool { return f.Name == string(jail.Capabilities) })
	if i < 0 {
		t.Fatalf("no line %q in %+v", jail.Capabilities, list)
	}
	if f := list[i]; f.Grade != gradeOK || !strings.Contains(f.Found, "virtiofsd") || !strings.Contains(f.Found, "keeps "+kept+" of") {
		t.Errorf("%+v, want ok with what virtiofsd keeps: %s", f, kept)
	}
}

// TestCheckNamesLandlocksABI: a kernel whose Landlock knows less than all is a warning.
func TestCheckNamesLandlocksABI(t *testing.T) {
	for abi, want := range map[int]grade{0: gradeWarn, 1: gradeWarn, fullABI - 1: gradeWarn, fullABI: gradeOK, fullABI + 1: gradeOK} {
		f := landlockFinding(abi)
		if f.Grade != want || abi > 0 && !strings.Contains(f.Found, fmt.Sprintf("ABI %d", abi)) {
			t.Errorf("ABI %d: %+v, want %s that names it", abi, f, want)
		}
	}
}

func TestCheckWarnsAboutTheCServer(t *testing.T) {
	if f := serverFinding("/usr/lib/qemu/virtiofsd", virtiofsd.KindC); f.Grade != gradeWarn || !strings.Contains(f.Remedy, "Rust") {
		t.Errorf("the C server: %+v, want a warning that names the Rust server", f)
	}
	if f := serverFinding("/usr/libexec/virtiofsd", virtiofsd.KindRust); f.Grade != gradeOK {
		t.Errorf("the Rust server: %+v, want ok", f)
	}
}
