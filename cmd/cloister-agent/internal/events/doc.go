// SPDX-License-Identifier: Apache-2.0

// Package events keeps what happened to containers until the host has it.
package events
