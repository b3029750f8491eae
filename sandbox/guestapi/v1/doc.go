// SPDX-License-Identifier: Apache-2.0

// Package guestv1 is generated from guest.proto: the part of the contract with
// the guest that containerd's Task API does not have.
//
// It must not be edited by hand; guest.proto says when each call is legal.
// Messages are plain values, and a client may be used by any goroutine.
package guestv1
