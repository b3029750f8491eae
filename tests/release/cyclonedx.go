// SPDX-License-Identifier: Apache-2.0

package release

import (
	"io"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// WriteCycloneDX writes the bill of materials in CycloneDX's form.
func WriteCycloneDX(w io.Writer, r Release, products []Product) error {
	bom := cdx.NewBOM()
	root := cdx.Component{
		BOMRef: "release", Type: cdx.ComponentTypeApplication, Name: "cloister", Version: r.Version,
		Licenses: licences(Part{Licence: "Apache-2.0"}),
	}
	bom.Metadata = &cdx.Metadata{Timestamp: r.Time.UTC().Format(time.RFC3339), Component: &root}
	var components []cdx.Component
	var needs []cdx.Dependency
	var names []string
	known := map[string]bool{}
	for _, p := range products {
		names = append(names, p.Name)
		components = append(components, cdx.Component{
			BOMRef: p.Name, Type: cdx.ComponentTypeApplication, Name: p.Name, Version: r.Version,
		})
		var ids []string
		for _, part := range p.Parts {
			ids = append(ids, part.id())
			if !known[part.id()] {
				known[part.id()] = true
				components = append(components, cdx.Component{
					BOMRef: part.id(), Type: cdx.ComponentTypeLibrary, Name: part.Name, Version: part.Version,
					PackageURL: part.id(), Licenses: licences(part),
				})
			}
		}
		needs = append(needs, cdx.Dependency{Ref: p.Name, Dependencies: &ids})
	}
	needs = append(needs, cdx.Dependency{Ref: root.BOMRef, Dependencies: &names})
	bom.Components, bom.Dependencies = &components, &needs
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

func licences(p Part) *cdx.Licenses {
	switch {
	case p.Licence == "":
		return nil
	case spdxName.MatchString(p.Licence):
		return &cdx.Licenses{{Expression: p.Licence}}
	}
	return &cdx.Licenses{{License: &cdx.License{Name: p.Licence}}}
}
