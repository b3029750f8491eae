// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxRewritten bounds a file that a container may have made as large as it likes.
const maxRewritten = 1 << 20

// RewriteFile brings a file that WriteFile made from sent, the bytes that it was given last, to
// data. The changes of the container stay: under runc the engine and the container have one file.
// It stays the same file to whoever has it mounted. Its inode must stay, since the container has it
// mounted by a bind; a rename would leave the old file in the container.
func RewriteFile(dir, rel string, sent, data []byte) error {
	root, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if rel, err = clean(rel); err != nil {
		return err
	}
	f, err := openIn(root, rel, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// One byte more than the limit tells a file of that size from a larger one.
	have, err := io.ReadAll(io.LimitReader(f, maxRewritten+1))
	if err != nil {
		return err
	}
	if len(have) > maxRewritten {
		return fmt.Errorf("it is larger than %d bytes in the container, and is left unchanged: %w",
			maxRewritten, errdefs.ErrFailedPrecondition)
	}
	merged := merge(sent, have, data)
	// Never empty, for who reads meanwhile. The new text is written over the old one and the rest
	// cut off then: emptying it first would show a reader an empty resolv.conf.
	_, err = f.WriteAt(merged, 0)
	return errors.Join(err, f.Truncate(int64(len(merged))), f.Close())
}

// merge gives the lines of data without those that were removed between sent and have, and behind
// them those that were added. It works by lines and counts, not by places: the order of lines in
// these files does not matter, but a line may be there twice.
func merge(sent, have, data []byte) []byte {
	if bytes.Equal(sent, have) {
		return data
	}
	// After the loop, removed has the lines that the container took away, and added those that it
	// put in.
	removed, added := counts(sent), counts(have)
	for line, n := range removed {
		both := min(n, added[line])
		removed[line], added[line] = n-both, added[line]-both
	}
	var out []byte
	for line := range lines(data) {
		switch {
		case removed[line] > 0:
			removed[line]--
			continue
		case added[line] > 0: // by the engine as well
			added[line]--
		}
		out = append(out, line+"\n"...)
	}
	for line := range lines(have) {
		if added[line] > 0 {
			added[line]--
			out = append(out, line+"\n"...)
		}
	}
	return out
}

// lines gives the lines without their newlines.
func lines(text []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range bytes.Lines(text) {
			if !yield(string(bytes.TrimSuffix(line, []byte("\n")))) {
				return
			}
		}
	}
}

// counts tells how often each line is there.
func counts(text []byte) map[string]int {
	found := map[string]int{}
	for line := range lines(text) {
		found[line]++
	}
	return found
}
