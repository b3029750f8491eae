// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

func await(done func() bool) bool { return bed.Await(host.Patience, done) }

// network is about networks of the user's own, where names are looked up at 127.0.0.11.
func network(t *testing.T, b *engine) {
	b.MustDocker(t, "network", "create", "--subnet=10.91.0.0/24", "--gateway=10.91.0.1", "--ipv6",
		"--subnet=fd91::/64", "--opt=com.docker.network.driver.mtu=1380", "front")
	b.MustDocker(t, "network", "create", "--subnet=10.92.0.0/24", "back")
	upstream(t, b, "10.91.0.1")
	b.start(t, "db", []string{"--network=front", "--network-alias=database", "--ip=10.91.0.5", "--ip6=fd91::5"},
		"sh", "-c", "mkdir /www; echo rows >/www/f; httpd -f -p 80 -h /www")
	b.start(t, "app", []string{"--network=front", "--dns=10.91.0.1", "--dns-opt=timeout:3"})
	for _, tt := range []struct{ name, want, script string }{
		{"a container", "10.91.0.5", "nslookup -type=a db | awk '/^Address/ {a=$2} END {print a}'"},
		{"an alias", "10.91.0.5", "nslookup -type=a database | awk '/^Address/ {a=$2} END {print a}'"},
		{"a name of elsewhere", "10.9.8.7", "nslookup -type=a elsewhere.test | awk '/^Address/ {a=$2} END {print a}'"},
		{"the reverse", "db.front", "nslookup 10.91.0.5 | sed -n 's/.*name = //p'"},
		{
			"over IPv6", "rows",
			`printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 $(nslookup -type=aaaa db | awk '/^Address/ {a=$2} END {print a}') 80 | tail -n 1`,
		},
		{"MTU and IPv6 default route", "1380 1", "echo $(cat /sys/class/net/eth0/mtu) $(ip -6 route | grep -c '^default via fd91::1 ')"},
		// A message behind its length (RFC 1035, 4.2.2), for "db"; the answer's last four bytes are
		// the address.
		{
			"over TCP", "0a 5b 00 05",
			`printf '\0\024\0\1\1\0\0\1\0\0\0\0\0\0\2db\0\0\1\0\1' | nc -w 5 127.0.0.11 53 | tail -c 4 | od -An -tx1 | sed 's/^ *//'`,
		},
		{"port 53 is the workload's", "bound", "httpd -p 53 && echo bound"},
		{"by name", "rows", `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 10.91.0.5 80 | tail -n 1`},
	} {
		t.Run(tt.name, func(t *testing.T) { b.say(t, "app", tt.name, tt.want, tt.script) })
	}
	t.Run("many names at once", func(t *testing.T) { manyNames(t, b, "app") })
	t.Run("connect and disconnect", func(t *testing.T) {
		const address = "nslookup -type=a cache | awk '/^Address/ {a=$2} END {print a}'"
		b.start(t, "cache", []string{"--network=back", "--ip=10.92.0.7"})
		b.say(t, "app", "a name of another network, which is elsewhere", "10.9.8.7", address)
		b.MustDocker(t, "network", "connect", "--ip=10.92.0.9", "back", "app")
		b.awaitIn(t, "app", "10.92.0.9/24", "ip -o -4 addr show dev eth1 | awk '{print $4}'")
		b.awaitIn(t, "app", "10.92.0.7", address)
		b.say(t, "app", "ping", "0", "ping -c 1 -W 5 10.92.0.7 >/dev/null; echo $?")
		b.thirdNetwork(t, "app")
		b.MustDocker(t, "network", "disconnect", "back", "app")
		b.awaitIn(t, "app", "10.9.8.7", address)
		b.awaitIn(t, "app", "", "ip -o -4 addr show | grep 10.92")
	})
	t.Run("from the default network to the user's", func(t *testing.T) {
		b.start(t, "late", nil)
		b.say(t, "late", "a name", "1", "nslookup -type=a db >/dev/null; echo $?")
		b.MustDocker(t, "network", "connect", "front", "late")
		b.awaitIn(t, "late", "10.91.0.5", "nslookup -type=a db | awk '/^Address/ {a=$2} END {print a}'")
	})
	t.Run("default routes of networks that come and go", func(t *testing.T) { gateways(t, b) })
	t.Run("what a container changed in the engine's files stays", func(t *testing.T) { changedFiles(t, b) })
	t.Run("container:NAME", func(t *testing.T) {
		b.start(t, "donor", []string{"--network=front", "--ipc=shareable"})
		joined := []string{
			"run", "--rm", "--network=container:donor", "--pid=container:donor",
			"--ipc=container:donor", image, "cat", "/proc/1/comm",
		}
		if got := b.MustDocker(t, joined...); got != "sleep\n" {
			t.Errorf("process 1 where the other's processes are shared is %q, want the other's", got)
		}
		b.start(t, "side", []string{"--network=container:db"})
		b.awaitIn(t, "side", "rows", `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 127.0.0.1 80 | tail -n 1`)
		b.say(t, "side", "address", "10.91.0.5/24", "ip -o -4 addr show dev eth0 | awk '{print $4}'")
		b.MustDocker(t, "stop", "--time=1", "db")
		b.awaitIn(t, "side", "lo", "ls /sys/class/net")
		b.MustDocker(t, "start", "db")
		b.awaitIn(t, "side", "rows", `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 127.0.0.1 80 | tail -n 1`)
		b.MustDocker(t, "restart", "--time=1", "side")
		b.awaitIn(t, "side", "rows", `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 127.0.0.1 80 | tail -n 1`)
		b.MustDocker(t, "rm", "--force", "side")
		b.awaitIn(t, "app", "rows", `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 10.91.0.5 80 | tail -n 1`)
	})
}

// changedFiles has a container append to hosts and resolv.conf, under both runtimes, before Docker
// changes hosts.
func changedFiles(t *testing.T, b *engine) {
	for _, runtime := range []string{"runc", "cloister"} {
		b.start(t, "changes", []string{"--runtime=" + runtime, "--hostname=changes", "--network=back", "--ip=10.92.0.33"})
		b.say(t, "changes", runtime, "", "echo '10.9.9.9 mine' >>/etc/hosts; echo 'options rotate' >>/etc/resolv.conf")
		b.MustDocker(t, "network", "connect", "--ip=10.91.0.33", "front", "changes")
		const look = "grep -E 'changes|mine' /etc/hosts | grep -v : | tr -s '\t ' '  ' | sort; grep -c rotate /etc/resolv.conf"
		b.awaitIn(t, "changes", "10.9.9.9 mine\n10.91.0.33 changes\n10.92.0.33 changes\n1", look)
		b.MustDocker(t, "network", "disconnect", "front", "changes")
		b.awaitIn(t, "changes", "10.9.9.9 mine\n10.92.0.33 changes\n1", look)
		b.MustDocker(t, "rm", "--force", "changes")
	}
}

// thirdNetwork connects a container of two networks, and a machine of two NICs, to one more.
// Docker is not asked: the log says what is missing, and the rest goes on.
func (b *engine) thirdNetwork(t *testing.T, name string) {
	t.Helper()
	b.MustDocker(t, "network", "create", "third")
	b.MustDocker(t, "network", "connect", "third", name)
	b.awaitLog(t, "all 2 NICs of the machine are taken: set machine.nics")
	b.say(t, name, "links", "eth0 eth1 lo", "echo $(ls /sys/class/net)")
	b.MustDocker(t, "network", "disconnect", "third", name)
	b.MustDocker(t, "network", "rm", "third")
}

// awaitIn waits until a script in a container writes what is wanted.
func (b *engine) awaitIn(t *testing.T, name, want, script string) {
	t.Helper()
	got := ""
	if !await(func() bool { got = b.in(t, name, script); return got == want }) {
		t.Errorf("%s = %q, want %q", script, got, want)
	}
}

// upstream is a name server on the host that gives every name the address 10.9.8.7.
func upstream(t *testing.T, b *engine, address string) {
	t.Helper()
	conn := b.Place.ListenPacket(t, net.JoinHostPort(address, "53"))
	go func() {
		const header = 12
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return // the test has ended
			}
			end := header
			for end < n && buffer[end] != 0 {
				end += int(buffer[end]) + 1
			}
			if end += 5; n < end { // the name's end, type and class
				continue
			}
			answer := append([]byte{buffer[0], buffer[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, buffer[header:end]...)
			answer = append(answer, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 9, 8, 7)
			_, _ = conn.WriteTo(answer, from)
		}
	}()
}

const project = `version: "3"
services:
  web:
    image: cloister/busybox
    command: sh -c "mkdir /www; echo page >/www/f; exec httpd -f -p 80 -h /www"
    ports: ["8099:80"]
    networks: [inner]
  client:
    image: cloister/busybox
    command: >-
      sh -c "until printf 'GET /f HTTP/1.0\\r\\n\\r\\n' | nc -w 5 web 80 | tail -n 1 | tee /data/got | grep page;
      do sleep 1; done; sleep 1000"
    depends_on: [web]
    networks: [inner, outer]
    volumes: ["data:/data"]
networks: {inner: {}, outer: {}}
volumes: {data: {}}
`

// compose is a project of two services that find each other by name, one of them in two networks.
func compose(t *testing.T, b *engine) {
	program := testenv.NeedTool(t, "docker-compose")
	file := filepath.Join(b.Place.Dir, "compose.yml")
	if err := os.WriteFile(file, []byte(project), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) string {
		t.Helper()
		cmd := b.Place.Command(context.WithoutCancel(t.Context()), program,
			append([]string{"--project-name", "p", "--file", file}, args...)...)
		// Version 1 asks for an API that is older than the daemon's oldest.
		cmd.Env = append(b.Docker(t.Context()).Env, "COMPOSE_API_VERSION=1.44", "COMPOSE_HTTP_TIMEOUT=300")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	defer call("down", "--volumes", "--timeout", "1")
	call("up", "--detach")
	b.fetch(t, "127.0.0.1", "8099")
	if !await(func() bool { return strings.Contains(call("exec", "-T", "client", "cat", "/data/got"), "page") }) {
		t.Errorf("the client did not get the page:\n%s", call("logs", "--no-color"))
	}
	if got := call("exec", "-T", "client", "sh", "-c", "ls /sys/class/net | grep -c eth"); got != "2\n" {
		t.Errorf("links of a service in two networks: %q", got)
	}
}
