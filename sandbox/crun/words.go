// SPDX-License-Identifier: Apache-2.0

package crun

import (
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// phrase is one of crun's and what runc says in its place. Clients look for
// runc's words to tell "not found" (127) from "cannot be run" (126).
type phrase struct {
	crun *regexp.Regexp
	runc string
}

// phrases are tried in order: the first of the two for a missing file is the narrower one.
func phrases() []phrase {
	return []phrase{
		// A name with a slash is a file, not one of $PATH.
		{
			regexp.MustCompile("executable file [`']([^`']*/[^`']*)[`'] not found( in \\$PATH)?(: No such file or directory)?"),
			`exec: "$1": stat $1: no such file or directory`,
		},
		{
			regexp.MustCompile("executable file [`']([^`']*)[`'] not found( in \\$PATH)?(: No such file or directory)?"),
			`exec: "$1": executable file not found in $$PATH`,
		},
		{
			regexp.MustCompile("the path [`']([^`']*)[`'] (exists but it is not executable|is not a regular file)(: .*)?"),
			`exec: "$1": permission denied`,
		},
		// A folder: runc says EACCES.
		{regexp.MustCompile("open executable: (Operation not permitted|Is a directory)"), `exec: permission denied`},
		{regexp.MustCompile("open executable: (.*)"), `exec: $1`},
		{regexp.MustCompile("exec container process [`']([^`']*)[`']: (.*)"), `exec: "$1": $2`},
	}
}

// systemPhrases are the C library's words, which Go's library starts with a
// small letter; clients compare as runc writes.
func systemPhrases() *strings.Replacer {
	return strings.NewReplacer(
		"Permission denied", "permission denied",
		"No such file or directory", "no such file or directory",
		"Not a directory", "not a directory",
		"Is a directory", "is a directory",
		"Exec format error", "exec format error",
		"No such process", "no such process",
	)
}

// nameless is an error of crun that does not say which program it is about.
func nameless() *regexp.Regexp {
	return regexp.MustCompile(`exec: (permission denied|not a directory|is a directory|no such file or directory|exec format error)`)
}

// Words gives an error of crun in runc's words, with its class. program, if not empty, is named
// where crun names none. An error that is none of gRPC's stays as it is.
func Words(err error, program string) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	code, text := s.Code(), s.Message()
	for _, p := range phrases() {
		text = p.crun.ReplaceAllString(text, p.runc)
	}
	text = systemPhrases().Replace(text)
	if program != "" {
		text = nameless().ReplaceAllString(text, "exec: "+strings.ReplaceAll(strconv.Quote(program), "$", "$$")+": $1")
	}
	// crun has no classes of errors: a call to a container that has ended is told by its text
	// alone.
	if code == codes.Unknown && strings.Contains(text, "is not running") {
		code = codes.FailedPrecondition
	}
	return status.Error(code, text)
}
