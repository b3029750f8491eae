// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	beds "cloister/tests/bed"
	"cloister/tests/host"
)

// receiver takes spans by OTLP over HTTP, as a collector does.
type receiver struct {
	mu    sync.Mutex
	spans []*spans.ResourceSpans
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var export collector.ExportTraceServiceRequest
	if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(body, &export) != nil {
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, export.GetResourceSpans()...)
}

// named are the spans of that name.
func (r *receiver) named(name string) []*spans.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*spans.Span
	for _, resource := range r.spans {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				if s.GetName() == name {
					found = append(found, s)
				}
			}
		}
	}
	return found
}

func attribute(in []*common.KeyValue, key string) string {
	for _, kv := range in {
		if kv.GetKey() == key {
			return kv.GetValue().GetStringValue()
		}
	}
	return ""
}

// TestSpans wants the phases of a life, below the calls they belong to, at the receiver the
// environment names.
func TestSpans(t *testing.T) {
	t.Parallel()
	place := &receiver{}
	b := beds.New(t, host.Options{Env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"}})
	// The shim is in the place, and connects from there.
	server := httptest.NewUnstartedServer(place)
	_ = server.Listener.Close()
	server.Listener = b.Place.Listen(t, "127.0.0.1:4318")
	server.Start()
	t.Cleanup(server.Close)

	b.Must(t, b.Args("traced", []string{"--rm"}, "true")...)
	// The shim sends the rest when it ends.
	if !beds.Await(host.Patience, func() bool { return len(place.named("destroy")) > 0 }) {
		t.Fatal("no span of the sandbox's end has come")
	}
	for call, phases := range map[string][]string{
		"containerd.task.v3.Task/Create": {
			"plan", "promise", "label", "prepare", "files", "qemu", "verify",
			"kernel", "agent", "rootfs", "create",
		},
		"containerd.task.v3.Task/Start":  {"start"},
		"containerd.task.v3.Task/Delete": {"drain", "halt", "remove", "destroy", "undo folder"},
	} {
		parents := place.named(call)
		if len(parents) != 1 || attribute(parents[0].GetAttributes(), "cloister.task") != "traced" {
			t.Errorf("%s: %v, want one span of the task", call, parents)
			continue
		}
		for _, phase := range phases {
			within(t, parents[0], phase, place.named(phase))
		}
	}
	place.mu.Lock()
	defer place.mu.Unlock()
	for _, r := range place.spans {
		// containerd's choice, by OTEL_SERVICE_NAME
		if got := attribute(r.GetResource().GetAttributes(), "service.name"); got != "containerd-shim-traced" {
			t.Errorf("service.name = %q", got)
		}
	}
}

// within wants exactly one span of a phase, and it inside of its call's.
func within(t *testing.T, call *spans.Span, phase string, found []*spans.Span) {
	t.Helper()
	if len(found) != 1 {
		t.Errorf("phase %q: %d spans, want 1", phase, len(found))
		return
	}
	s := found[0]
	if !slices.Equal(s.GetTraceId(), call.GetTraceId()) || s.GetStartTimeUnixNano() < call.GetStartTimeUnixNano() ||
		s.GetEndTimeUnixNano() > call.GetEndTimeUnixNano() {
		t.Errorf("phase %q = %v, want it within %v", phase, s, call)
	}
}
