// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/containerd/otelttrpc"
	"github.com/containerd/ttrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// service is the service's name where OTEL_SERVICE_NAME gives no other.
const service = "containerd-shim-cloister-v2"

// protocol is the only one that is spoken here.
const protocol = "http/protobuf"

// Tracer is where spans go. Its zero value is off.
type Tracer struct{ provider *sdk.TracerProvider }

// Start begins to send spans when the environment asks for it. Call it once: the receiver is the
// whole process's. A collector that is away is no error, here or later. With an error the Tracer is
// off and may be used: a container must not fail for its tracing.
func Start(ctx context.Context, version string) (*Tracer, error) {
	if !wanted() {
		return &Tracer{}, nil
	}
	if p := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), protocol); p != protocol {
		return &Tracer{}, fmt.Errorf("tracing: OTEL_EXPORTER_OTLP_PROTOCOL is %q: want %s: %w", p, protocol, errdefs.ErrNotImplemented)
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return &Tracer{}, fmt.Errorf("tracing: %w", err)
	}
	// What the environment says of the service wins.
	about, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", service), attribute.String("service.version", version), attribute.Int("process.pid", os.Getpid()),
	), resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithHost())
	if err != nil {
		return &Tracer{}, fmt.Errorf("tracing: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return &Tracer{provider}, nil
}

// wanted says whether the environment names a receiver of spans and does not switch them off.
func wanted() bool {
	if off, err := strconv.ParseBool(os.Getenv("OTEL_SDK_DISABLED")); err == nil && off || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Unary puts a span around each call, below the caller's if that sent one, and next inside of it.
func (t *Tracer) Unary(next ttrpc.UnaryServerInterceptor) ttrpc.UnaryServerInterceptor {
	if t.provider == nil {
		return next
	}
	span := otelttrpc.UnaryServerInterceptor()
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		return span(ctx, unmarshal, info, func(ctx context.Context, unmarshal func(any) error) (any, error) {
			return next(ctx, unmarshal, info, method)
		})
	}
}

// Close sends what has not been sent, until ctx ends. It is called when the daemon leaves.
func (t *Tracer) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}
