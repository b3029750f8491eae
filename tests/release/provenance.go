// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// buildType names how a release is built: RELEASING.md says what it means.
const buildType = "urn:cloister:make-release:1"

// predicateType is that of SLSA's provenance.
const predicateType = "https://slsa.dev/provenance/v1"

// WriteProvenance writes an in-toto statement about files: from which commit, by which command and
// by whom they were built. It has no time of the build, which would make two builds differ.
func WriteProvenance(w io.Writer, r Release, files []string) error {
	parameters, err := structpb.NewStruct(map[string]any{
		"command": "make release", "version": r.Version, "flavour": r.Flavour, "sourceDateEpoch": r.Time.Unix(),
	})
	if err != nil {
		return err
	}
	predicate := &provenance.Provenance{
		BuildDefinition: &provenance.BuildDefinition{
			BuildType: buildType, ExternalParameters: parameters,
			ResolvedDependencies: []*intoto.ResourceDescriptor{
				{Name: "source", Uri: "git+cloister", Digest: map[string]string{"gitCommit": r.Commit}},
				{Name: "go", Uri: "pkg:generic/go@" + runtime.Version()[2:]},
			},
		},
		RunDetails: &provenance.RunDetails{Builder: &provenance.Builder{Id: r.Builder}},
	}
	statement := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: predicateType}
	for _, file := range files {
		digest, err := sum(file)
		if err != nil {
			return err
		}
		statement.Subject = append(statement.Subject,
			&intoto.ResourceDescriptor{Name: filepath.Base(file), Digest: map[string]string{"sha256": digest}})
	}
	if err := predicate.Validate(); err != nil {
		return fmt.Errorf("provenance: %w", err)
	}
	text, err := protojson.Marshal(predicate)
	if err != nil {
		return err
	}
	statement.Predicate = &structpb.Struct{}
	if err := protojson.Unmarshal(text, statement.Predicate); err != nil {
		return err
	}
	if err := statement.Validate(); err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if text, err = protojson.Marshal(statement); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil { // protojson's blanks differ between programs
		return err
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

func sum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
