// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// nameServer is an engine's in the namespace. It answers once it has as many questions as wanted:
// over UDP with the question 5,000 times, over TCP with the question.
func nameServer(t *testing.T, n *Namespace, wanted int) {
	t.Helper()
	var datagrams *net.UDPConn
	var connections net.Listener
	err := n.do(func() (err error) {
		datagrams, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(NameServer), Port: 53})
		if err != nil {
			return err
		}
		connections, err = net.Listen("tcp4", NameServer+":53") //nolint:noctx // loopback
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(datagrams.Close(), connections.Close()) })
	var asked sync.WaitGroup
	asked.Add(wanted)
	go func() {
		buffer := make([]byte, 512)
		for {
			size, from, err := datagrams.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			answer := bytes.Repeat(buffer[:size], 5000)
			go func() {
				asked.Done()
				asked.Wait()
				_, _ = datagrams.WriteToUDPAddrPort(answer, from)
			}()
		}
	}()
	go func() {
		for {
			conn, err := connections.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				frame := make([]byte, 2+4)
				if _, err := io.ReadFull(conn, frame); err != nil {
					return
				}
				asked.Done()
				asked.Wait()
				_, _ = conn.Write(frame)
			}()
		}
	}()
}

// TestAskManyNames asks as many questions at once as a guest may, each of which has its own large
// answer.
func TestAskManyNames(t *testing.T) {
	n := inNamespace(t)
	const questions = 256
	nameServer(t, n, questions)
	var all sync.WaitGroup
	for i := range questions {
		all.Go(func() {
			question := binary.BigEndian.AppendUint32(nil, uint32(i))
			want, tcp := bytes.Repeat(question, 5000), i%4 == 0
			if tcp {
				want = question
			}
			if got := n.AskName(t.Context(), tcp, question); !bytes.Equal(got, want) {
				t.Errorf("question %d, over TCP %t: an answer of %d bytes, want %d", i, tcp, len(got), len(want))
			}
		})
	}
	all.Wait()
}

func TestAskNameWithoutAServer(t *testing.T) {
	n := inNamespace(t)
	for _, tcp := range []bool{false, true} {
		if got := n.AskName(t.Context(), tcp, []byte("?")); got != nil {
			t.Errorf("AskName without a server = %q, over TCP %t", got, tcp)
		}
	}
}
