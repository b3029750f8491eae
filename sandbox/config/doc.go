// SPDX-License-Identifier: Apache-2.0

// Package config is what a host's administrator sets for sandboxes.
//
// It holds values and their defaults. It must know nothing of files and TOML: cmd/internal/config
// reads them. Everybody may import it.
//
// A zero Config is complete: WithDefaults fills in what is not set. Parts that belong to one
// package, such as jail and labels, are types of that package, which checks them before a start has
// an effect.
package config
