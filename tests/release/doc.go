// SPDX-License-Identifier: Apache-2.0

// Package release writes what lies beside the archives of a release: bills of materials in
// CycloneDX's and in SPDX's form, and the provenance as an in-toto statement.
//
// What the programs are linked from is read from the programs themselves, and what the guest image
// holds from its manifest. The same inputs give the same bytes: times are the commit's.
package release
