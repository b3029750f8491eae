// SPDX-License-Identifier: Apache-2.0

package child

import (
	"fmt"
	"os"
)

// Log reads back what a process appended to a log file.
type Log struct {
	file  *os.File
	start int64
}

// OpenLog takes note of the log's present end. The log stays the caller's; one
// that is nil, or may not be read, quotes as nothing.
func OpenLog(log *os.File) (*Log, error) {
	if log == nil {
		return &Log{}, nil
	}
	info, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", log.Fd()))
	if err != nil {
		return &Log{}, nil //nolint:nilerr // quoting the log is a courtesy
	}
	return &Log{file: file, start: info.Size()}, nil
}

// LastLines returns the end of what was appended, fit for an error.
func (l *Log) LastLines() string {
	if l.file == nil {
		return ""
	}
	const limit = 4096
	info, err := l.file.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, limit)
	n, _ := l.file.ReadAt(buf, max(l.start, info.Size()-limit))
	return LastLines(buf[:n], 10, limit)
}

// Close lets go of the log.
func (l *Log) Close() {
	if l.file != nil {
		_ = l.file.Close()
	}
}
