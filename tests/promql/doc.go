// SPDX-License-Identifier: Apache-2.0

// Package promql has Prometheus' own parser read the alert rules and the dashboard in docs/metrics.
// It is a module of its own: the parser's many dependencies stay out of the main module's go.mod.
// The stage lint runs it.
package promql
