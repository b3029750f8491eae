// SPDX-License-Identifier: Apache-2.0

// Package classes sends the task calls of one shim to the service of the class that its first
// container has: machines or plain containers. A sandbox has one class; a container of another is
// refused.
//
// It knows neither what a class is nor where its name comes from. A Service may be used by any
// number of goroutines.
package classes
