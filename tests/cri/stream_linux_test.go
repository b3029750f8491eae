// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
)

// reachable gives a URL of containerd's streaming server as it is called outside of the place.
func (b *bed) reachable(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = b.Place.Relay(t, u.Host)
	return u
}

// stream runs what a URL of the streaming server stands for.
func (b *bed) stream(t *testing.T, text string, options remotecommand.StreamOptions) error {
	t.Helper()
	u := b.reachable(t, text)
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), host.Patience)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

// streams does what kubectl does: exec, attach and port-forward.
func streams(t *testing.T, b *bed, p *pod, first string) {
	t.Helper()
	step(t, "streaming exec", func(t *testing.T) {
		answer, err := b.cri.Exec(t.Context(), &runtimeapi.ExecRequest{
			ContainerId: first, Cmd: []string{"sh", "-c", "cat; echo err >&2; exit 7"}, Stdin: true, Stdout: true, Stderr: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		err = b.stream(t, answer.GetUrl(), remotecommand.StreamOptions{Stdin: strings.NewReader("told"), Stdout: &stdout, Stderr: &stderr})
		if err == nil || !strings.Contains(err.Error(), "exit code 7") || stdout.String() != "told" || stderr.String() != "err\n" {
			t.Errorf("exec = %q, %q, %v, want told, err and exit code 7", &stdout, &stderr, err)
		}
	})
	step(t, "exec with a terminal", func(t *testing.T) {
		answer, err := b.cri.Exec(t.Context(), &runtimeapi.ExecRequest{
			ContainerId: first, Cmd: []string{"sh"},
			Stdin: true, Stdout: true, Tty: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		var stdout bytes.Buffer
		// The size comes on a stream of its own: asked for until it is there.
		script := "while [ \"$(stty size)\" != '50 132' ]; do :; done; stty size; tty; exit\n"
		held, stdin := io.Pipe() // a person's terminal has no end
		go func() { _, _ = io.WriteString(stdin, script) }()
		err = b.stream(t, answer.GetUrl(), remotecommand.StreamOptions{
			Stdin: held, Stdout: &stdout, Tty: true, TerminalSizeQueue: &oneSize{Width: 132, Height: 50},
		})
		if err != nil || !strings.Contains(stdout.String(), "\r\n50 132\r\n") || !strings.Contains(stdout.String(), "/dev/pts/") {
			t.Errorf("exec = %q, %v", &stdout, err)
		}
	})
	step(t, "attach", func(t *testing.T) { attaches(t, b, p) })
	step(t, "port-forward", func(t *testing.T) { forwards(t, b, p) })
}

// oneSize tells a terminal's size once.
type oneSize remotecommand.TerminalSize

// Next gives the size the first time.
func (s *oneSize) Next() *remotecommand.TerminalSize {
	if s.Width == 0 {
		return nil
	}
	size := remotecommand.TerminalSize(*s)
	s.Width = 0
	return &size
}

// attaches talks to the first process of a container, which ends with its input.
func attaches(t *testing.T, b *bed, p *pod) {
	t.Helper()
	id := p.start(t, "attached", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "cat")
	answer, err := b.cri.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := b.stream(t, answer.GetUrl(), remotecommand.StreamOptions{
		Stdin:  strings.NewReader("word\n"),
		Stdout: &stdout, Stderr: &stderr,
	}); err != nil {
		t.Error(err)
	}
	if stdout.String() != "word\n" {
		t.Errorf("attach = %q, want what was written", &stdout)
	}
	if s := b.exited(t, id); s.GetExitCode() != 0 {
		t.Errorf("cat ended with %d", s.GetExitCode())
	}
}

// forwards reaches servers of the pod on ports of this machine, as kubectl port-forward does.
func forwards(t *testing.T, b *bed, p *pod) {
	t.Helper()
	p.start(t, "servers", nil, "sh", "-c",
		"mkdir /www; echo local >/www/f; httpd -p 127.0.0.1:8081 -h /www; exec httpd -f -p [::1]:8082 -h /www")
	answer, err := b.cri.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{8080, 8081, 8082, 8083}})
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, b.reachable(t, answer.GetUrl()))
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"},
		[]string{"0:8080", "0:8081", "0:8082", "0:8083"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	defer func() {
		close(stop)
		<-ended //nolint:errcheck // a port that nobody listens on, the last, ends kubectl's forwarding
	}()
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("port-forward: %v", err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		want := map[uint16]string{8080: "page\n", 8081: "local\n", 8082: "local\n"}[port.Remote]
		wrong := host.Await(host.Patience, func() string { // the servers are on their way
			got, err := get(t, port.Local)
			if want == "" && err == nil {
				return fmt.Sprintf("a port that nobody listens on = %q", got)
			}
			if want != "" && (err != nil || got != want) {
				return fmt.Sprintf("port %d = %q, %v, want %q", port.Remote, got, err, want)
			}
			return ""
		})
		if wrong != "" {
			t.Error(wrong)
		}
	}
}

// get fetches a page from a port of this machine.
func get(t *testing.T, port uint16) (string, error) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(host.Patience))
	if _, err := io.WriteString(conn, "GET /f HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	_, body, ok := strings.Cut(string(text), "\r\n\r\n")
	if err == nil && !ok {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}
