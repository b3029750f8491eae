// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// runMetrics is the verb metrics. It reads records and /proc each time; no daemon keeps counts.
func runMetrics(std stdio) *cobra.Command {
	c := newCommand(std, "metrics [--textfile FILE | --listen ADDRESS]",
		"Prints counts and sizes of all sandboxes in Prometheus' text format.\n"+
			"No metric has the name of a sandbox, so that their number is bounded.")
	file := c.Flags().String("textfile", "",
		"replace `file` atomically, for the textfile collector of node_exporter: its name ends in .prom")
	address := c.Flags().String("listen", "", "serve /metrics on `address` until stopped: unix:PATH, or a loopback IP and port")
	return c.runs(0, 0, func(ctx context.Context, _ []string) error {
		if *file != "" && *address != "" {
			return wrongUsage(c.Command, errors.New("--textfile and --listen: want one of them"))
		}
		// node_exporter would ignore the file without a word.
		if *file != "" && !strings.HasSuffix(*file, ".prom") {
			return wrongUsage(c.Command, fmt.Errorf("--textfile %q: node_exporter reads only names that end in .prom", *file))
		}
		s, err := openFolders(std, configOf(c.Command))
		if err != nil {
			return err
		}
		registry, err := s.registry()
		if err != nil {
			return err
		}
		switch {
		case *file != "":
			// A rename, so that node_exporter never reads half a file.
			return prometheus.WriteToTextfile(*file, registry)
		case *address != "":
			listener, err := listenLocally(ctx, *address)
			if err != nil {
				return err
			}
			return serveMetrics(ctx, listener, registry)
		}
		return printMetrics(std.out, registry)
	})
}

// printMetrics writes the text format.
func printMetrics(out io.Writer, registry prometheus.Gatherer) error {
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(out, family); err != nil {
			return err
		}
	}
	return nil
}

// registry is a registry with the host's collector alone. A pedantic one compares descriptions with
// what is collected, so a wrong metric is an error here and not in Prometheus.
func (s *site) registry() (*prometheus.Registry, error) {
	registry := prometheus.NewPedanticRegistry()
	return registry, registry.Register(newCollector(s))
}

// listenLocally listens where only this host can connect: metrics tell how much a host is used.
// There is no authentication; whoever may connect can read.
func listenLocally(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	path, isPath := strings.CutPrefix(address, "unix:")
	if !isPath {
		at, err := netip.ParseAddrPort(address)
		// A name such as localhost is not taken: it could resolve to another address.
		if err != nil || !at.Addr().IsLoopback() {
			return nil,
				marked{fmt.Errorf("--listen %q: want unix:PATH, or a loopback address as 127.0.0.1:9469: metrics have no access control",
					address), errUsage}
		}
		return config.Listen(ctx, "tcp", address)
	}
	if err := removeStaleSocket(ctx, path); err != nil {
		return nil, err
	}
	// The socket has its mode from the start: a chmod after it would leave a moment in which others
	// may connect.
	defer unix.Umask(unix.Umask(0o117)) // owner and group may connect
	return config.Listen(ctx, "unix", path)
}

// removeStaleSocket removes a socket on which nobody listens. It keeps other files, and a socket
// that is in use. A killed server leaves its socket, and the next one could not listen. Between the
// dial and the removal somebody may begin to listen; two servers on one path are a mistake of the
// operator's in any case.
func removeStaleSocket(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("--listen unix:%s: %q exists and is no socket: remove it, or name another", path, path)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("--listen unix:%s: another process listens there: stop it first", path)
	}
	// Permission, for example: then nobody knows whether it is in use.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// serveMetrics answers GET /metrics until ctx ends. A slow client holds only its own connection,
// for a minute at most. At most four requests at once, since each one reads every process of every
// sandbox.
func serveMetrics(ctx context.Context, listener net.Listener, registry prometheus.Gatherer) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry,
		promhttp.HandlerOpts{MaxRequestsInFlight: 4, ErrorHandling: promhttp.HTTPErrorOnError}))
	// Every timeout is set: the zero values wait for ever.
	server := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Five seconds for answers under way; then the process ends with them.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := errors.Join(server.Shutdown(stop), <-ended); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
