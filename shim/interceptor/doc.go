// SPDX-License-Identifier: Apache-2.0

// Package interceptor is the one place where errors become gRPC: it stands around every call of the
// shim's services.
//
// Services return errors wrapped in errdefs' classes and know nothing of status codes. A panic in a
// call is that call's error, since the machine and the other containers must outlive it.
package interceptor
