package sbom_test

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/sbom"
)

const status = `Package: zlib1g
Status: install ok installed
Maintainer: Mark Brown <broonie@debian.org>
Architecture: amd64
Multi-Arch: same
Source: zlib (1:1.3.dfsg+really1.3.1-1)
Version: 1:1.3.dfsg+really1.3.1-1+b1
Description: compression library
 one: two
Homepage: http://zlib.net/

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.37-2
`

func TestParse(t *testing.T) {
	got, err := sbom.Parse(status)
	if err != nil {
		t.Fatal(err)
	}
	want := []sbom.Package{
		{Name: "bash", Version: "5.2.37-2", Arch: "amd64"},
		{Name: "zlib1g", Version: "1:1.3.dfsg+really1.3.1-1+b1", Arch: "amd64", Source: "zlib",
			SourceVersion: "1:1.3.dfsg+really1.3.1-1", Maintainer: "Mark Brown <broonie@debian.org>", Homepage: "http://zlib.net/"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse(status) differs (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"Package: a\nStatus: install ok installed\n", "a has no version"},
		{"Version: 1\n", "names no package"},
		{"no colon here\n", "no colon"},
	} {
		if _, err := sbom.Parse(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q) = %v, want an error with %q", tt.in, err, tt.want)
		}
	}
}

func TestWrite(t *testing.T) {
	packages, err := sbom.Parse(status)
	if err != nil {
		t.Fatal(err)
	}
	im := sbom.Image{
		Name: "eos", Version: "1.2", Arch: "amd64", BuildID: "abc", Suite: "trixie",
		Built: time.Unix(1700000000, 0), Packages: packages,
		Programs: []sbom.Program{{Path: "/usr/bin/os-update", Go: "go1.26",
			Modules: []sbom.Module{{Path: "example.org/x", Version: "v1.0.0+incompatible"}}}},
	}
	var a, b bytes.Buffer
	if err := sbom.Write(&a, im); err != nil {
		t.Fatal(err)
	}
	if err := sbom.Write(&b, im); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("Write twice gave different bytes")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&a, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatalf("decode what Write wrote: %v", err)
	}
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.Name+" "+c.Version+" "+c.PackageURL)
	}
	want := []string{
		"bash 5.2.37-2 pkg:deb/debian/bash@5.2.37-2?arch=amd64&distro=trixie",
		"zlib1g 1:1.3.dfsg+really1.3.1-1+b1 pkg:deb/debian/zlib1g@1%3A1.3.dfsg%2Breally1.3.1-1%2Bb1?arch=amd64&distro=trixie",
		"/usr/bin/os-update 1.2 ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("components differ (-want +got):\n%s", diff)
	}
	if bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" {
		t.Errorf("timestamp = %q, want that of the build", bom.Metadata.Timestamp)
	}
}

func TestModules(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	p, err := sbom.Modules("/test", data)
	if err != nil {
		t.Fatal(err)
	}
	if p.Path != "/test" || p.Go != runtime.Version() {
		t.Errorf("Modules of this test = %+v, want compiler %s", p, runtime.Version())
	}
	if _, err := sbom.Modules("/x", []byte("#!/bin/sh")); err == nil {
		t.Error("Modules of a shell script: no error")
	}
}
