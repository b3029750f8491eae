// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// nginxApp serves 200 clients at once, each of which asks three times by one connection.
func nginxApp() app {
	const clients, requests = 200, 3
	content := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	return app{
		name: "nginx", network: true,
		prepare: func(t *testing.T, _ *ground, data string) {
			if err := os.WriteFile(filepath.Join(data, "f"), content, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		use: func(t *testing.T, c *container) string {
			c.sh(`
printf 'worker_processes 1; pid /tmp/pid; error_log /tmp/err; events { worker_connections 1024; }
http { access_log off; sendfile on; keepalive_timeout 600; server { listen 80 backlog=512; root /data; } }' >/etc/nginx/nginx.conf
nginx`)
			var wait sync.WaitGroup
			results := make(chan error, clients)
			for range clients {
				wait.Go(func() { results <- c.fetch(t, requests, content) })
			}
			wait.Wait()
			close(results)
			good := 0
			for err := range results {
				if err == nil {
					good++
					continue
				}
				t.Logf("%s: %v", c.id, err)
			}
			return fmt.Sprintf("%d clients", good)
		},
		want: "200 clients",
	}
}

// fetch asks for /f by one connection.
func (c *container) fetch(t *testing.T, times int, want []byte) error {
	conn, err := c.Place.Dial(t.Context(), net.JoinHostPort(c.address, "80"))
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for range times {
		if _, err := io.WriteString(conn, "GET /f HTTP/1.1\r\nHost: apps\r\n\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		if err := response.Body.Close(); err != nil {
			return err
		}
		if err != nil || sha256.Sum256(body) != sha256.Sum256(want) {
			return fmt.Errorf("%s, %d bytes of another content, %w", response.Status, len(body), err)
		}
	}
	return nil
}

// watched is how many folders are watched: 20,000, or what the host's limit of open files leaves
// for them. The file server holds one for each file that the guest knows (docs/limitations.md), and
// only CAP_SYS_RESOURCE could raise a hard limit.
func watched() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 20000
	}
	return int(min(20000, limit.Max-limit.Max/8))
}

// watcherApp has thousands of folders watched, and sees a file in the last one.
func watcherApp() app {
	folder := func(i int) string { return fmt.Sprintf("watched/%d/%d", i/100, i%100) }
	last := "/data/" + folder(watched()-1) + "/file"
	return app{
		name: "inotify",
		prepare: func(t *testing.T, _ *ground, data string) {
			t.Logf("%d folders", watched())
			for i := range watched() {
				if err := os.MkdirAll(filepath.Join(data, folder(i)), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		},
		use: func(_ *testing.T, c *container) string {
			return c.sh(`
(inotifywait --monitor --recursive --event create --format '%w%f' /data/watched >/tmp/events 2>/tmp/err &)
until grep -q 'Watches established' /tmp/err; do if grep -q -i 'couldn.t\|failed\|limit' /tmp/err; then cat /tmp/err; exit 1; fi
	sleep 0.2; done
touch ` + last + `
until [ -s /tmp/events ]; do sleep 0.1; done
cat /tmp/events`)
		},
		want: last,
	}
}

func servers() []app { return []app{nginxApp(), watcherApp()} }
