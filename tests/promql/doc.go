// SPDX-License-Identifier: Apache-2.0

// Package promql has Prometheus' own parser and query engine read the alert rules and the dashboard
// in docs/metrics, and draws the dashboard: docs/metrics.svg. It is a module of its own: the many
// dependencies of Prometheus stay out of the main module's go.mod. The stage lint runs it.
package promql
