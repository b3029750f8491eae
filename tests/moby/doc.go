// SPDX-License-Identifier: Apache-2.0

// Package moby runs the integration suites of Docker's daemon with cloister as the default runtime,
// and compares every case with expected.tsv, which has the results under runc beside them.
//
// No run of all tests has the time for it: make test-moby.
package moby
