// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net"
	"strings"
	"testing"
)

func TestPlaceIsPrivate(t *testing.T) {
	p := New(t)
	if out := p.Run(t, "sh", "-c", "touch /run/mark && ls /run && ip -o link && ps ax -o pid= | wc -l"); strings.Count(out, "\n") > 6 {
		t.Errorf("the place has more than its own:\n%s", out)
	}
	if got := p.Processes(t); len(got) != 0 {
		t.Errorf("Processes = %v, want none", got)
	}
	l := p.Listen(t, "127.0.0.1:80")
	if port := l.Addr().(*net.TCPAddr).Port; port != 80 {
		t.Errorf("Listen gave port %d, want 80", port)
	}
	if out := p.Run(t, "ss", "-Hlnt"); !strings.Contains(out, "127.0.0.1:80") {
		t.Errorf("ss in the place = %q, want 127.0.0.1:80", out)
	}
}

func TestContainerd(t *testing.T) {
	for _, version := range []Version{Distribution, Current} {
		t.Run(string(version), func(t *testing.T) {
			c := New(t).StartContainerd(t, Options{Version: version})
			if out := c.Must(t, "version"); !strings.Contains(out, "Server:") {
				t.Errorf("ctr version = %q", out)
			}
			c.Stop(t, "TERM")
			c.Start(t)
			c.Must(t, "plugins", "ls")
		})
	}
}
