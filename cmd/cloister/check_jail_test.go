// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"cloister/vmm/virtiofsd"
)

func TestCheckWarnsAboutTheCServer(t *testing.T) {
	if f := serverFinding("/usr/lib/qemu/virtiofsd", virtiofsd.KindC); f.Grade != gradeWarn || !strings.Contains(f.Remedy, "Rust") {
		t.Errorf("the C server: %+v, want a warning that names the Rust server", f)
	}
	if f := serverFinding("/usr/libexec/virtiofsd", virtiofsd.KindRust); f.Grade != gradeOK {
		t.Errorf("the Rust server: %+v, want ok", f)
	}
}
