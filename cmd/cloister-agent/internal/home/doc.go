// SPDX-License-Identifier: Apache-2.0

// Package home gives processes the HOME that runc gives them: the folder that the
// container's /etc/passwd names for their user, or "/".
//
// crun before 1.9 leaves HOME unset for a user who is not in /etc/passwd, and then
// programs such as `git config --global` fail.
package home
