// SPDX-License-Identifier: Apache-2.0

package crun

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestError(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{
			"not in PATH", "OCI runtime create failed: executable file `nope` not found in $PATH: No such file or directory",
			`OCI runtime create failed: exec: "nope": executable file not found in $PATH`,
		},
		{"quoted otherwise", "executable file 'nope' not found in $PATH", `exec: "nope": executable file not found in $PATH`},
		{
			"not executable", "OCI runtime exec failed: open executable: Permission denied",
			"OCI runtime exec failed: exec: permission denied",
		},
		{"folder", "open executable: Operation not permitted", "exec: permission denied"},
		{
			"not executable, crun 1.21", "the path `/etc/passwd` exists but it is not executable: Operation not permitted",
			`exec: "/etc/passwd": permission denied`,
		},
		{"folder, crun 1.21", "the path `/etc` is not a regular file: Operation not permitted", `exec: "/etc": permission denied`},
		{
			"missing, crun 1.21", "executable file `/x` not found: No such file or directory",
			`exec: "/x": stat /x: no such file or directory`,
		},
		{"missing file", "open `/x`: No such file or directory", "open `/x`: no such file or directory"},
		{"format", "exec container process `/a`: Exec format error", `exec: "/a": exec format error`},
		{"other", "something else", "something else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Words(status.Error(codes.NotFound, tt.in), "")
			if s, _ := status.FromError(got); s.Message() != tt.want || s.Code() != codes.NotFound {
				t.Errorf("Words(%q) = %v, want %q", tt.in, got, tt.want)
			}
		})
	}
	if err := Words(nil, ""); err != nil {
		t.Errorf("Words(nil) = %v", err)
	}
	if plain := errors.New("plain"); !errors.Is(Words(plain, ""), plain) {
		t.Error("Words changes an error that is no status")
	}
}

// TestErrorsNameTheProgram has errors of crun that name no program.
func TestErrorsNameTheProgram(t *testing.T) {
	for _, tt := range []struct{ program, in, want string }{
		{
			"/etc/passwd", "OCI runtime exec failed: open executable: Permission denied",
			`OCI runtime exec failed: exec: "/etc/passwd": permission denied`,
		},
		{"/etc", "open executable: Operation not permitted", `exec: "/etc": permission denied`},
		{"$1", "open executable: Operation not permitted", `exec: "$1": permission denied`},
		{
			"nope", "executable file `nope` not found in $PATH: No such file or directory",
			`exec: "nope": executable file not found in $PATH`,
		},
	} {
		if s, _ := status.FromError(Words(status.Error(codes.Unknown, tt.in), tt.program)); s.Message() != tt.want {
			t.Errorf("Words(%q, %q) = %q, want %q", tt.in, tt.program, s.Message(), tt.want)
		}
	}
}
