// SPDX-License-Identifier: Apache-2.0

package network

import (
	"strings"
	"testing"
)

// TestJoin has a second container share the first one's network, as Docker's and nerdctl's
// --network container:NAME do: it goes to the same guest, and outlives the first there.
func TestJoin(t *testing.T) {
	b := newBed(t, "")
	b.plug("y", "eth0", "10.88.0.2/24", "fd88::2/64")
	b.run("c", "y", "sh", "-c", "mkdir /www; echo of the first >/www/f; httpd -f -p 8080 -h /www")
	pid := b.sh("pgrep qemu-system")
	b.Start(t, "d", []string{"--with-ns", "network:/proc/" + pid + "/ns/net"})
	ask := func(want string) {
		t.Helper()
		script := `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 127.0.0.1 8080 | tail -n 1`
		if want != "-" {
			script = "until " + script + " | grep .; do sleep 0.1; done" // the server may be on its way
		}
		r := b.Exec(t, "d", "ask"+strings.ReplaceAll(want, " ", "-")+"x", "sh", "-c", script)
		if got := strings.TrimSpace(r.Stdout); got != want && want != "-" || want == "-" && got != "" {
			t.Errorf("the second container gets %q (%s), want %q", got, r.Stderr, want)
		}
	}
	ask("of the first")
	if got := b.sh("pgrep -c qemu-system"); got != "1" {
		t.Errorf("%s machines for two containers that share a network", got)
	}
	b.Remove(t, "c")
	ask("-")
	b.run("c", "y", "sh", "-c", "mkdir /www; echo it is back >/www/f; httpd -f -p 8080 -h /www")
	ask("it is back")
	b.Remove(t, "c")
	b.Remove(t, "d")
	if got := b.sh("pgrep -c qemu-system || true"); got != "0" {
		t.Errorf("%s machines are left", got)
	}
	r := b.Run(t, b.Args("e", []string{"--detach", "--with-ns", "network:/proc/1/ns/net"}, "sleep", "1000")...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "process on the host") {
		t.Errorf("the network of a process that is no guest: exit %d, %s", r.Code, r.Stderr)
	}
	b.Remove(t, "e")
}
