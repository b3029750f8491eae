// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"cloister/labels"
	"cloister/sys"
)

// The folders of entries. Wide levels have one of their own: a draw lists only those few, and asks
// for a pair by its name.
const (
	pairsFolder = "pairs"
	wideFolder  = "wide" // levels that are not a pair
)

// ErrCorrupt is wrapped when a file of the registry cannot be what cloister wrote. The level stays
// held: a guest that has it may be running. An administrator removes the file.
var ErrCorrupt = errors.New("corrupt registry entry")

// Kind is how a level came to be held. Only a Dynamic one can be redrawn.
type Kind string

// The kinds there are.
const (
	Dynamic Kind = "dynamic" // drawn
	Static  Kind = "static"  // asked for
	Shared  Kind = "shared"  // held by several sandboxes on purpose
)

// Holder is a sandbox that holds a level, and the process that answers for it.
type Holder struct {
	Sandbox string      `json:"sandbox"`
	Owner   sys.Process `json:"owner"`
}

// Entry is a reserved level. It has at least one holder, and several only when it is Shared. Share
// is the name that they gave. Level is stored in the raw form, as the kernel writes it.
type Entry struct {
	Level   labels.Level `json:"level"`
	Kind    Kind         `json:"kind"`
	Share   string       `json:"share,omitempty"`
	Holders []Holder     `json:"holders"`
}

// name is the entry's file below the boot's folder. Two levels of the same two categories have one
// name whatever their sensitivity, since they clash: the higher one could read the lower. A wide
// level can be longer than a file name, so its digest is the name.
func name(level labels.Level) string {
	if p, ok := level.Pair(); ok {
		return pairsFolder + "/" + p.String()
	}
	sum := sha256.Sum256([]byte(level.String()))
	return wideFolder + "/" + hex.EncodeToString(sum[:])
}

// encode gives one line of JSON.
func (e Entry) encode() ([]byte, error) {
	text, err := json.Marshal(e)
	return append(text, '\n'), err
}

// decode reads the entry of the file at path, which tells what level it must hold. An entry without
// a holder, or under another level's name, is corrupt: it would be counted as free or as another's.
func decode(path, file string, text []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(text, &e); err != nil {
		return Entry{}, corrupt(path, err)
	}
	known := slices.Contains([]Kind{Dynamic, Static, Shared}, e.Kind)
	if !known || len(e.Holders) == 0 || name(e.Level) != file {
		return Entry{}, corrupt(path, fmt.Errorf("kind %q, level %v, %d holders", e.Kind, e.Level, len(e.Holders)))
	}
	return e, nil
}

func corrupt(path string, cause error) error {
	return fmt.Errorf("%w: %s: %w: remove the file once no process carries its level (cloister labels)", ErrCorrupt, path, cause)
}

// checkName accepts the name of a share or a sandbox. A share's name becomes a file's, so it has no
// slash; a sandbox's may have one, between namespace and id. No name begins with a dot, so none is
// "..". most is in bytes.
func checkName(what, text string, most int) error {
	if text == "" || len(text) > most {
		return fmt.Errorf("%s name of %d bytes: want 1 to %d", what, len(text), most)
	}
	for _, c := range []byte(text) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' ||
			c == '.' || c == '/' && what != "share"
		if !ok {
			return fmt.Errorf("%s name %q: want letters, digits, '-', '_', '.'", what, text)
		}
	}
	if text[0] == '.' {
		return fmt.Errorf("%s name %q: it starts with a dot", what, text)
	}
	return nil
}
