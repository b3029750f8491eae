// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"bytes"
	"testing"
)

func TestExecFailure(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"format", `{"msg":"exec container process ` + "`/run.sh`" +
			`: Exec format error","level":"error","time":"2026-11-23T10:00:00.000000Z"}` + "\n", "exec /run.sh: exec format error\n"},
		{"interpreter", `{ "msg": "exec container process (missing dynamic library?) ` + "`/x`" +
			`: No such file or directory", "level": "error", "time": "t" }` + "\n", "exec /x: no such file or directory\n"},
		{"terminal", `{"msg":"exec container process '/x': Exec format error","level":"error"}` + "\r\n", "exec /x: exec format error\r\n"},
		{"another error", `{"msg":"something else","level":"error"}` + "\n", ""},
		{"a program's JSON", `{"msg":"exec container process ` + "`/x`" + `: y","level":"info"}` + "\n", ""},
		{"text", "hello\n", ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(execFailure([]byte(tt.in))); got != tt.want {
				t.Errorf("execFailure(%q) = %q, want %q", tt.in, got, tt.want)
			}
			var out bytes.Buffer
			f := &failure{to: &out, seen: make(chan struct{})}
			for range 2 { // only the first is the runtime's
				if n, err := f.Write([]byte(tt.in)); n != len(tt.in) || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
			}
			first := tt.want
			if first == "" {
				first = tt.in
			}
			if got := out.String(); got != first+tt.in {
				t.Errorf("sent %q, want %q", got, first+tt.in)
			}
			if f.wait() != (tt.want != "") {
				t.Errorf("failed = %t", f.failed)
			}
		})
	}
}
