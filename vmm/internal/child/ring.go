// SPDX-License-Identifier: Apache-2.0

package child

// ring keeps the last bytes written to it. It has no lock of its own.
type ring struct {
	buf  []byte
	next int
	full bool
}

func newRing(size int) *ring { return &ring{buf: make([]byte, size)} }

// Write keeps what fits of b's end; it never fails.
func (r *ring) Write(b []byte) (int, error) {
	n := len(b)
	if len(b) >= len(r.buf) {
		copy(r.buf, b[len(b)-len(r.buf):])
		r.next, r.full = 0, true
		return n, nil
	}
	k := copy(r.buf[r.next:], b)
	if k < len(b) {
		copy(r.buf, b[k:])
	}
	if r.next+n >= len(r.buf) {
		r.full = true
	}
	r.next = (r.next + n) % len(r.buf)
	return n, nil
}

// Bytes returns a copy of what is kept, oldest first.
func (r *ring) Bytes() []byte {
	if !r.full {
		return append([]byte(nil), r.buf[:r.next]...)
	}
	return append(append([]byte(nil), r.buf[r.next:]...), r.buf[:r.next]...)
}
