// Package sbom writes the bill of materials of an image: a CycloneDX document
// that names every package and version in it.
//
// [Parse] reads dpkg's table of installed packages, [Modules] the Go modules
// that a program was built from, and [Write] turns both into the document. The
// same input gives the same bytes: the serial number comes from the build id and
// the time is given.
//
// The document lists what was put in. It does not look at file contents, and
// says nothing about licences or vulnerabilities. The package keeps no state.
package sbom

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// Package is an installed Debian package.
type Package struct {
	Name, Version, Arch string
	Source              string // source package, if its name differs
	SourceVersion       string // version of the source, if it differs
	Maintainer          string
	Homepage            string
}

// Parse reads dpkg's status file and returns the packages that are installed,
// sorted by name and architecture.
func Parse(status string) ([]Package, error) {
	var out []Package
	for i, record := range strings.Split(strings.TrimSpace(status), "\n\n") {
		if strings.TrimSpace(record) == "" {
			continue
		}
		fields := map[string]string{}
		for line := range strings.Lines(record) {
			line = strings.TrimRight(line, "\n")
			if line == "" || line[0] == ' ' || line[0] == '\t' {
				continue // the rest of a field of several lines
			}
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("parse package table: record %d: line %q has no colon", i+1, line)
			}
			fields[name] = strings.TrimSpace(value)
		}
		p := Package{
			Name: fields["Package"], Version: fields["Version"], Arch: fields["Architecture"],
			Maintainer: fields["Maintainer"], Homepage: fields["Homepage"],
		}
		if p.Name == "" {
			return nil, fmt.Errorf("parse package table: record %d names no package", i+1)
		}
		if !strings.HasSuffix(fields["Status"], " installed") {
			continue
		}
		if p.Version == "" {
			return nil, fmt.Errorf("parse package table: %s has no version", p.Name)
		}
		source, version, _ := strings.Cut(fields["Source"], " ")
		p.Source, p.SourceVersion = source, strings.Trim(version, "()")
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch))
	})
	return out, nil
}

// Module is a Go module that a program was linked from.
type Module struct{ Path, Version string }

// Program is a program that no package brought.
type Program struct {
	Path    string // in the image
	Go      string // the compiler
	Modules []Module
}

// Modules returns what the Go program in data was built from.
func Modules(path string, data []byte) (Program, error) {
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return Program{}, fmt.Errorf("read build information of %s: %w", path, err)
	}
	p := Program{Path: path, Go: info.GoVersion}
	for _, m := range info.Deps {
		for m.Replace != nil {
			m = m.Replace
		}
		p.Modules = append(p.Modules, Module{m.Path, m.Version})
	}
	return p, nil
}

// Image is what a bill of materials is about.
type Image struct {
	Name, Version, Arch, BuildID string
	Suite                        string // of Debian
	Built                        time.Time
	Packages                     []Package
	Programs                     []Program
}

// Write writes the CycloneDX document of the image.
func Write(w io.Writer, im Image) error {
	bom := cdx.NewBOM()
	serial := uuid.NewSHA1(uuid.NameSpaceURL, []byte("eos-build:"+im.BuildID))
	bom.SerialNumber = serial.URN()
	bom.Metadata = &cdx.Metadata{
		Timestamp: im.Built.UTC().Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: "image", Type: cdx.ComponentTypeOS, Name: im.Name, Version: im.Version,
			Properties: &[]cdx.Property{
				{Name: "eos:build-id", Value: im.BuildID}, {Name: "eos:arch", Value: im.Arch},
			},
		},
	}
	var all []cdx.Component
	for _, p := range im.Packages {
		c := cdx.Component{
			Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version,
			PackageURL: packageURL(p, im.Suite),
		}
		c.BOMRef = c.PackageURL
		if p.Maintainer != "" {
			c.Supplier = &cdx.OrganizationalEntity{Name: p.Maintainer}
		}
		if p.Homepage != "" {
			c.ExternalReferences = &[]cdx.ExternalReference{{URL: p.Homepage, Type: cdx.ERTypeWebsite}}
		}
		if p.Source != "" {
			props := []cdx.Property{{Name: "debian:source", Value: p.Source}}
			if p.SourceVersion != "" {
				props = append(props, cdx.Property{Name: "debian:source-version", Value: p.SourceVersion})
			}
			c.Properties = &props
		}
		all = append(all, c)
	}
	for _, p := range im.Programs {
		c := cdx.Component{
			BOMRef: "program:" + p.Path, Type: cdx.ComponentTypeApplication, Name: p.Path,
			Version: im.Version, Properties: &[]cdx.Property{{Name: "go:version", Value: p.Go}},
		}
		var parts []cdx.Component
		for _, m := range p.Modules {
			parts = append(parts, cdx.Component{
				BOMRef: p.Path + ":" + m.Path, Type: cdx.ComponentTypeLibrary, Name: m.Path,
				Version: m.Version, PackageURL: "pkg:golang/" + m.Path + "@" + url.PathEscape(m.Version),
			})
		}
		if len(parts) > 0 {
			c.Components = &parts
		}
		all = append(all, c)
	}
	bom.Components = &all
	enc := cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON)
	enc.SetPretty(true)
	if err := enc.Encode(bom); err != nil {
		return fmt.Errorf("write bill of materials: %w", err)
	}
	return nil
}

// packageURL names a package in the form that other tools know.
func packageURL(p Package, suite string) string {
	escape := func(s string) string {
		return strings.NewReplacer("+", "%2B", ":", "%3A", "~", "~").Replace(s)
	}
	out := "pkg:deb/debian/" + escape(p.Name) + "@" + escape(p.Version) + "?arch=" + p.Arch
	if suite != "" {
		out += "&distro=" + suite
	}
	return out
}
