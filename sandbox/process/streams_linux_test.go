// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"os"
	"testing"

	eventsapi "github.com/containerd/containerd/api/events"

	"cloister/tests/testenv"
)

// TestOutputs wants a name for both outputs or for none, and the engine to see those alone that it
// asked for.
func TestOutputs(t *testing.T) {
	testenv.NeedRoot(t)
	null, err := openNull("")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()

	device := nowhere(null)
	if f, err := os.OpenFile(device, os.O_WRONLY|os.O_APPEND, 0); err != nil { // as containerd's service does
		t.Error(err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		name, in, out, errs string
		terminal            bool
		wantOut, wantErrs   string
	}{
		{"none", "", "", "", false, "", ""},
		{"input", "/in", "", "", false, device, device},
		{"output", "", "/out", "", false, "/out", device},
		{"errors", "", "", "/errs", false, device, "/errs"},
		{"all", "/in", "/out", "/errs", false, "/out", "/errs"},
		{"terminal", "/in", "/out", "", true, "/out", ""},
		{"terminal without an output", "/in", "", "", true, device, ""},
		{"terminal of nobody", "", "", "", true, device, ""},
		{"log", "/in", "binary:///log", "", false, "binary:///log", device},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, errs := outputs(null, tt.in, tt.out, tt.errs, tt.terminal)
			if out != tt.wantOut || errs != tt.wantErrs {
				t.Errorf("outputs = %q, %q, want %q, %q", out, errs, tt.wantOut, tt.wantErrs)
			}
			var told told
			p := &publisher{to: &told, bundle: func(string) string { return "" }, null: func() *os.File { return null }}
			streams := &eventsapi.TaskIO{Stdin: tt.in, Stdout: out, Stderr: errs}
			if err := p.Publish(t.Context(), "", &eventsapi.TaskCreate{IO: streams}); err != nil {
				t.Fatal(err)
			}
			if told.IO.GetStdout() != tt.out || told.IO.GetStderr() != tt.errs {
				t.Errorf("the event has %q, %q, want %q, %q", told.IO.GetStdout(), told.IO.GetStderr(), tt.out, tt.errs)
			}
		})
	}
}

// told keeps the event of a create.
type told struct{ *eventsapi.TaskCreate }

func (to *told) Publish(_ context.Context, event any) error {
	to.TaskCreate, _ = event.(*eventsapi.TaskCreate)
	return nil
}
