// SPDX-License-Identifier: Apache-2.0

// Package tracing sends spans of the shim's calls and phases to an OpenTelemetry collector, when
// the environment names one.
//
// The variables are OpenTelemetry's, which containerd reads as well and hands down to its shims.
// Without them nothing is set up, and spans cost nothing. It knows no calls and no phases: those
// come by OpenTelemetry's own API.
package tracing
