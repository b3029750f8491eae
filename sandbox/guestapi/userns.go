// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	uidParameter = "cloister.uids="
	gidParameter = "cloister.gids="
)

// IDRange says that Size ids of containers from Container on are the guest's from Host on.
type IDRange struct{ Container, Host, Size uint32 }

// UserNamespace is what the guest's one user namespace makes of users and groups. Its zero value is
// none. It comes with the kernel's line, since the agent's own network, ipc and host name are to
// belong to it. 0 is mapped in both.
type UserNamespace struct{ UIDs, GIDs []IDRange }

// IsZero says that there is none.
func (u UserNamespace) IsZero() bool { return len(u.UIDs)+len(u.GIDs) == 0 }

// Parameters are those of the kernel's line. They have no blank in them, as the kernel's line wants
// it.
func (u UserNamespace) Parameters() []string {
	if u.IsZero() {
		return nil
	}
	return []string{uidParameter + ranges(u.UIDs), gidParameter + ranges(u.GIDs)}
}

func ranges(list []IDRange) string {
	texts := make([]string, len(list))
	for i, r := range list {
		texts[i] = fmt.Sprintf("%d:%d:%d", r.Container, r.Host, r.Size)
	}
	return strings.Join(texts, ",")
}

// ParseUserNamespace finds it on a kernel's line. The agent reads its own kernel's line by it; one
// kind of ids without the other is an error.
func ParseUserNamespace(line string) (UserNamespace, error) {
	var u UserNamespace
	for parameter := range strings.FieldsSeq(line) {
		var err error
		if list, ok := strings.CutPrefix(parameter, uidParameter); ok {
			u.UIDs, err = ParseRanges(list)
		} else if list, ok := strings.CutPrefix(parameter, gidParameter); ok {
			u.GIDs, err = ParseRanges(list)
		}
		if err != nil {
			return UserNamespace{}, fmt.Errorf("kernel parameter %q: %w", parameter, err)
		}
	}
	if (u.UIDs == nil) != (u.GIDs == nil) {
		return UserNamespace{}, fmt.Errorf("kernel parameters: one of %s and %s alone: %w", uidParameter,
			gidParameter, errdefs.ErrInvalidArgument)
	}
	return u, nil
}

// ParseRanges reads container:host:size,... Whether the ranges overlap is for the kernel to find.
func ParseRanges(list string) ([]IDRange, error) {
	var out []IDRange
	for text := range strings.SplitSeq(list, ",") {
		var r IDRange
		numbers := strings.Split(text, ":")
		if len(numbers) != 3 {
			return nil, fmt.Errorf("%q: want container:host:size: %w", text, errdefs.ErrInvalidArgument)
		}
		for i, to := range []*uint32{&r.Container, &r.Host, &r.Size} {
			n, err := strconv.ParseUint(numbers[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q: %w: %w", text, errdefs.ErrInvalidArgument, err)
			}
			*to = uint32(n)
		}
		out = append(out, r)
	}
	return out, nil
}

// Root is what the containers' root is in the guest.
func (u UserNamespace) Root() (uid, gid int) {
	of := func(list []IDRange) int {
		for _, r := range list {
			if r.Container == 0 {
				return int(r.Host)
			}
		}
		return 0
	}
	return of(u.UIDs), of(u.GIDs)
}
