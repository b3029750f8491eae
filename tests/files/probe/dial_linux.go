// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
)

// dial sends the standard input to a socket, and then its end, and prints what comes back until that ends.
func dial(socket string) error {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	unix := conn.(*net.UnixConn) //nolint:forcetypeassert // what "unix" gives
	defer unix.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(unix, os.Stdin)
		sent <- errors.Join(err, unix.CloseWrite())
	}()
	_, err = io.Copy(os.Stdout, unix)
	return errors.Join(err, <-sent)
}
