// SPDX-License-Identifier: Apache-2.0

// Package classes sends the task calls of one shim to the service of the class that its first
// container has: machines or plain containers. A sandbox has one class; a container of another is
// refused. A Shutdown counts only while no container is being made or taken away.
//
// It knows neither what a class is nor where its name comes from. A Service may be used by any
// number of goroutines.
//
// Main types: Service is registered in place of one class's service, Backend is such a service. A
// shim makes a Service with the class of its configuration, so that calls before the first Create
// have somebody to answer them.
package classes
