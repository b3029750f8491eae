// SPDX-License-Identifier: Apache-2.0

// Package crash has tests of what goes wrong: processes that are killed, parts that are missing or
// damaged, calls that are illegal, guests that are hostile. After each of them the host must be as
// it was.
package crash
