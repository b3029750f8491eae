// SPDX-License-Identifier: Apache-2.0

// Package config is what a host's administrator sets for sandboxes.
//
// It holds values and their defaults. It must know nothing of files and TOML: cmd/internal/config
// reads them. Everybody may import it.
package config
