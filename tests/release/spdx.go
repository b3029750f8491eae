// SPDX-License-Identifier: Apache-2.0

package release

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// noAssertion is what SPDX has for what is not known.
const noAssertion = "NOASSERTION"

// WriteSPDX writes the bill of materials in SPDX's form.
func WriteSPDX(w io.Writer, r Release, products []Product) error {
	root := spdxPackage("release", "cloister", r.Version, "Apache-2.0")
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      "cloister-" + r.Version,
		DocumentNamespace: fmt.Sprintf("https://spdx.org/spdxdocs/cloister-%s-%s", r.Version, r.Commit),
		CreationInfo: &v2_3.CreationInfo{
			Created:  r.Time.UTC().Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Organization", Creator: "Cloister"}},
		},
		Packages:      []*v2_3.Package{root},
		Relationships: []*v2_3.Relationship{relation("DOCUMENT", common.TypeRelationshipDescribe, root)},
	}
	known := map[string]*v2_3.Package{}
	for _, p := range products {
		product := spdxPackage(p.Name, p.Name, r.Version, "Apache-2.0")
		doc.Packages = append(doc.Packages, product)
		doc.Relationships = append(doc.Relationships, relation(root.PackageSPDXIdentifier, common.TypeRelationshipContains, product))
		for _, part := range p.Parts {
			if known[part.id()] == nil {
				found := spdxPackage(part.id(), part.Name, part.Version, part.Licence)
				found.PackageExternalReferences = []*v2_3.PackageExternalReference{{
					Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: part.id(),
				}}
				known[part.id()] = found
				doc.Packages = append(doc.Packages, found)
			}
			doc.Relationships = append(doc.Relationships,
				relation(product.PackageSPDXIdentifier, common.TypeRelationshipDependsOn, known[part.id()]))
		}
	}
	return json.Write(doc, w, json.Indent("  "))
}

// spdxPackage describes a package, which id tells from others.
func spdxPackage(id, name, version, licence string) *v2_3.Package {
	sum := sha256.Sum256([]byte(id))
	p := &v2_3.Package{
		PackageName: name, PackageVersion: version, PackageSPDXIdentifier: common.ElementID("P-" + hex.EncodeToString(sum[:8])),
		PackageDownloadLocation: noAssertion, PackageCopyrightText: noAssertion,
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion,
	}
	switch {
	case spdxName.MatchString(licence):
		p.PackageLicenseDeclared = licence
	case licence != "":
		p.PackageLicenseComments = "The distribution's package says: " + licence
	}
	return p
}

func relation(from common.ElementID, kind string, to *v2_3.Package) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, RefB: common.DocElementID{ElementRefID: to.PackageSPDXIdentifier},
		Relationship: kind,
	}
}
