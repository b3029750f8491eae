// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	stdjson "encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"google.golang.org/protobuf/encoding/protojson"

	"cloister/tests/testenv"
)

func sample() (Release, []Product) {
	r := Release{Version: "1.2.3", Commit: strings.Repeat("a", 40), Time: time.Unix(1700000000, 0), Flavour: "small", Builder: "urn:test"}
	return r, []Product{
		{"cloister", []Part{{"go", "example.org/a", "v1.0.0", "MIT"}, {"go", "std", "1.26.0", "BSD-3-Clause"}}},
		{"guest image", []Part{{"deb", "libc6", "2.36-9+deb12u1", "LGPL-2.1+"}, {"go", "std", "1.26.0", "BSD-3-Clause"}}},
	}
}

// TestBillsOfMaterialsAreValid writes both bills and reads them with the reader of each form.
func TestBillsOfMaterialsAreValid(t *testing.T) {
	r, products := sample()
	var text bytes.Buffer
	if err := WriteCycloneDX(&text, r, products); err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&text, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, c := range *bom.Components {
		refs = append(refs, c.BOMRef)
	}
	want := []string{
		"cloister", "pkg:golang/example.org/a@v1.0.0", "pkg:golang/std@1.26.0", "guest image",
		"pkg:deb/debian/libc6@2.36-9%2Bdeb12u1",
	}
	if !slices.Equal(refs, want) {
		t.Errorf("components of CycloneDX = %q, want %q", refs, want)
	}
	if bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" {
		t.Errorf("the time is %s, want the commit's", bom.Metadata.Timestamp)
	}
	text.Reset()
	if err := WriteSPDX(&text, r, products); err != nil {
		t.Fatal(err)
	}
	doc, err := json.Read(&text)
	if err != nil {
		t.Fatal(err)
	}
	checkSPDX(t, doc)
}

func checkSPDX(t *testing.T, doc *spdx.Document) {
	t.Helper()
	ids := map[string]bool{"DOCUMENT": true}
	for _, p := range doc.Packages {
		if ids[string(p.PackageSPDXIdentifier)] {
			t.Errorf("two packages are %s", p.PackageSPDXIdentifier)
		}
		ids[string(p.PackageSPDXIdentifier)] = true
		declared, comments := p.PackageLicenseDeclared, p.PackageLicenseComments
		if p.PackageName == "libc6" && (declared != noAssertion || !strings.Contains(comments, "LGPL-2.1+")) {
			t.Errorf("licence of libc6 = %q, %q", declared, comments)
		}
	}
	for _, rel := range doc.Relationships {
		if !ids[string(rel.RefA.ElementRefID)] || !ids[string(rel.RefB.ElementRefID)] {
			t.Errorf("%v names what is not there", rel)
		}
	}
	if len(doc.Packages) != 6 || len(doc.Relationships) != 7 {
		t.Errorf("%d packages, %d relationships, want 6 and 7", len(doc.Packages), len(doc.Relationships))
	}
}

func TestProvenanceIsAStatement(t *testing.T) {
	r, _ := sample()
	file := filepath.Join(t.TempDir(), "cloister.tar.gz")
	if err := os.WriteFile(file, []byte("archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	var text, again bytes.Buffer
	for _, w := range []*bytes.Buffer{&text, &again} {
		if err := WriteProvenance(w, r, []string{file}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(text.Bytes(), again.Bytes()) || !stdjson.Valid(text.Bytes()) {
		t.Errorf("two statements differ, or are no JSON:\n%s", text.String())
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(text.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	if len(s.GetSubject()) != 1 || s.GetSubject()[0].GetName() != "cloister.tar.gz" || len(s.GetSubject()[0].GetDigest()["sha256"]) != 64 {
		t.Errorf("subjects = %v", s.GetSubject())
	}
	if !strings.Contains(text.String(), `"gitCommit": "`+r.Commit) {
		t.Errorf("no commit in\n%s", text.String())
	}
}

// TestNoticeNamesModules reads the licences of the tree's own NOTICE.
func TestNoticeNamesModules(t *testing.T) {
	licences, err := Notice(filepath.Join(testenv.Tree(t), "NOTICE"))
	if err != nil {
		t.Fatal(err)
	}
	if got := licences["github.com/containerd/ttrpc"]; got != "Apache-2.0" || len(licences) < 20 {
		t.Errorf("%d licences, that of ttrpc %q", len(licences), got)
	}
}

// TestVulnSaysWhatIsMissing: without a database nothing is found out, which is not "nothing found".
func TestVulnSaysWhatIsMissing(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), filepath.Join(testenv.Tree(t), ".ci", "vuln"))
	cmd.Env = append(os.Environ(), "GOVULNDB=file:///no/such/database")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "vuln: nothing was found out") {
		t.Errorf(".ci/vuln without a database = %v:\n%s", err, out)
	}
}
