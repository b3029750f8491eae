// SPDX-License-Identifier: Apache-2.0

// Package served starts virtiofsd for tests as a sandbox does: in its jail, without a label.
package served
