// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestStart(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		on   bool
		err  bool
	}{
		{"nothing asked for", nil, false, false},
		{"a receiver", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true, false},
		{"one for spans alone", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, true, false},
		{"switched off", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, false, false},
		{
			"spans switched off",
			map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
			false, false,
		},
		{"another protocol", map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
			"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
		}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			tracer, err := Start(t.Context(), "1")
			if errdefs.IsNotImplemented(err) != test.err || (tracer.provider != nil) != test.on {
				t.Errorf("Start = %v, %v; want a provider: %v, an error: %v", tracer.provider, err, test.on, test.err)
			}
			if err := tracer.Close(t.Context()); err != nil {
				t.Errorf("Close without a span = %v", err)
			}
		})
	}
}
