// SPDX-License-Identifier: Apache-2.0

// Package guestapi is the contract with the guest: generated code, hello,
// framing, limits; the host's client.
//
// One byte channel carries everything. The agent writes a preamble line, then
// both sides speak yamux on it; only the host opens streams, and each stream
// starts with its name. The stream named ControlStream is a ttrpc connection
// with containerd's Task API and cloister.guest.v1.Guest; a stream named
// io/<token> is one direction of data of a process; the one named NamesStream
// carries questions to the engine's name server, a DebugStream a shell; tcp/<port> is
// a connection to the guest's localhost, and unix/<token> the next connection that
// somebody in the guest makes to a socket that stands for one of the host's.
//
// Every byte that comes from the guest is hostile: lengths are checked before
// anything is allocated, texts are cut, and a frame the contract has no place
// for ends the session. The package knows nothing of QEMU or of containers.
// All exported methods may be called from several goroutines.
//
// The host calls NewClient with its end of the channel, then Task and Guest for calls, OpenStream
// for data of processes, and Events in a loop. The agent calls Serve and takes streams by
// ReadStreamName. A change that an older side would misread raises Protocol: both sides are built
// from one tree, and a guest image of another version is refused at its hello.
package guestapi

//go:generate protoc -I ../.. --go_out=../.. --go_opt=module=cloister --go-ttrpc_out=../.. --go-ttrpc_opt=module=cloister,prefix=TTRPC sandbox/guestapi/v1/guest.proto
