package imagespec_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/imagespec"
)

const podmanHead = "name: eos\nclass: c\nversion: 1.0\npackages: [systemd, podman]\n"

var sum = "sha256:" + strings.Repeat("ab", 32)

func TestContainers(t *testing.T) {
	text := podmanHead + `containers:
  - {name: basesystem, aliases: [base, "registry.example.com/base:1"], build: base.yaml}
  - {name: a, archive: a.oci.tar}
  - {name: b, folder: sub/b}
  - {name: c, image: "registry.example.com/c@` + sum + `"}
profiles:
  more: {containers: {add: [{name: d, archive: d.tar}]}}
  none: {containers: []}
`
	want := []imagespec.Container{
		{Name: "basesystem", Aliases: []string{"base", "registry.example.com/base:1"}, Build: "base.yaml"},
		{Name: "a", Archive: "a.oci.tar"}, {Name: "b", Folder: "sub/b"},
		{Name: "c", Image: "registry.example.com/c@" + sum},
	}
	if diff := cmp.Diff(want, parse(t, text, "").Containers); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
	if got := len(parse(t, text, "more").Containers); got != 5 {
		t.Errorf("a profile that adds one has %d containers, want 5", got)
	}
	if got := len(parse(t, text, "none").Containers); got != 0 {
		t.Errorf("a profile without has %d containers", got)
	}
	if a, b := parse(t, podmanHead, ""), parse(t, podmanHead+"containers: []\n", ""); a.Digest() != b.Digest() {
		t.Error("containers: [] is not the same as none")
	}
}

// Faults of containers, as in bad; the text follows podmanHead, whose last line is line 4.
func TestBadContainers(t *testing.T) {
	for _, tt := range []struct{ text, want, hint string }{
		{"containers: [{build: b.yaml}]\n", "5: containers[0].name: is missing", "basesystem"},
		{"containers: [{name: A, build: b.yaml}]\n", `5: containers[0].name: name of container image "A"`, ""},
		{"containers: [{name: a, aliases: [a@b], build: b.yaml}]\n", "5: containers[0].aliases[0]: name of", ""},
		{"containers: [{name: a}]\n", "5: containers[0]: has 0 of archive, folder, image and build", "registry"},
		{"containers: [{name: a, archive: x, build: b.yaml}]\n", "5: containers[0]: has 2 of archive", ""},
		{"containers: [{name: a, archive: /x}]\n", `containers[0].archive: "/x" is not a file below`, "without .."},
		{"containers: [{name: a, folder: ../x}]\n", `containers[0].folder: "../x" is not a folder below`, ""},
		{"containers: [{name: a, build: \"\"}]\n", `containers[0].build: "" is not the file of a description`, ""},
		{"containers: [{name: a, build: /b.yaml}]\n", `containers[0].build: "/b.yaml" is not the file`, "relative to the folder"},
		{"containers: [{name: a, image: registry.example.com/a}]\n", "containers[0].image: container image \"registry.example.com/a\": has no digest", "same image"},
		{"containers: [{name: a, image: \"registry.example.com/a:1@" + sum + "\"}]\n", "has a tag and a digest", ""},
		{"containers: [{name: a, image: \"a@" + sum + "\"}]\n", "has no registry", ""},
		{"containers: [{name: a, archive: x}, {name: \"localhost/a:latest\", archive: y}]\n", `"localhost/a:latest" is the name of two`, ""},
		{"containers: [{name: a, archive: x, aliases: [a]}]\n", "is the name of two", ""},
		{"containers: [{name: a, tag: x, archive: x}]\n", "containers[0].tag: unknown key", ""},
		{"profiles: {x: {packages: [systemd], containers: [{name: a, archive: x}]}}\n", "5: containers: are for podman, which is not in packages (in profile x)", "add podman"},
		{"files: [{path: /usr/lib/eos/containers/x, content: x}]\n", "is made from containers:", ""},
		{"kind: container\n", "5: kind: unknown key", ""},
	} {
		_, err := imagespec.Parse("d.yaml", []byte(podmanHead+tt.text), "")
		checkProblem(t, tt.text, err, tt.want, tt.hint)
	}
}

func checkProblem(t *testing.T, text string, err error, want, hint string) {
	t.Helper()
	for _, p := range imagespec.Problems(err) {
		if strings.Contains(p.Error(), want) && strings.Contains(p.Hint(), hint) {
			return
		}
	}
	t.Errorf("%q: %v, want %q with the hint %q", text, err, want, hint)
}

const small = "kind: container\nname: base\n"

func TestParseContainer(t *testing.T) {
	got, err := imagespec.ParseContainer("c.yaml", []byte(small+`debian: {mirror: "http://deb.example.org"}
packages: [bash]
remove: {packages: [perl-base], paths: [/usr/share/doc/**]}
files: [{path: /etc/os-update.yml, content: x}]
base: basesystem
host: [/usr/lib/modules/**]
env: [A=b=c, LANG=C]
entrypoint: [/usr/sbin/a, -c]
cmd: [/etc/a.conf]
user: a:b
workdir: /var/lib/a
labels: [org.opencontainers.image.title=A]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &imagespec.ContainerSpec{
		File: "c.yaml", Kind: "container", Name: "base", Arch: "amd64",
		Debian:   imagespec.Debian{Suite: "trixie", Mirror: "http://deb.example.org"},
		Packages: []string{"bash"},
		Remove:   imagespec.Remove{Packages: []string{"perl-base"}, Paths: []string{"/usr/share/doc/**"}},
		Files:    []imagespec.File{{Path: "/etc/os-update.yml", Content: "x", Mode: 0o644, Owner: "root", Group: "root"}},
		Base:     "basesystem", Host: []string{"/usr/lib/modules/**"}, Env: []string{"A=b=c", "LANG=C"},
		Entrypoint: []string{"/usr/sbin/a", "-c"}, Cmd: []string{"/etc/a.conf"}, User: "a:b", Workdir: "/var/lib/a",
		Labels: []string{"org.opencontainers.image.title=A"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseContainer (-want +got):\n%s", diff)
	}
	if _, err := imagespec.ParseContainer("c.yaml", []byte(small)); err != nil {
		t.Errorf("ParseContainer without packages: %v, want none: the essential ones are there", err)
	}
}

func TestBadContainerSpecs(t *testing.T) {
	for _, tt := range []struct{ text, want, hint string }{
		{"name: a\n", `kind: is "", want container`, "begins with kind"},
		{"kind: image\nname: a\n", `1: kind: is "image"`, ""},
		{"kind: container\n", "1: name: is missing", "basesystem"},
		{"kind: container\nname: A\n", `2: name: "A" does not fit`, ""},
		{"kind: container\nname: a..b\n", `2: name: name of container image "a..b"`, ""},
		{small + "version: 1.0\n", "3: version: unknown key", ""},
		{small + "profiles: {}\n", "3: profiles: unknown key", ""},
		{small + "packages: [Bash]\n", `3: packages[0]: "Bash" does not fit`, ""},
		{small + "files: [{path: /proc/x, content: x}]\n", "/proc is mounted over", ""},
		{small + "remove: {paths: [usr]}\n", "is not absolute", ""},
		{small + "arch: x86\n", "is not one of amd64, arm64", ""},
		{"", "the file is empty", ""},
		{small + "base: Base\n", `3: base: "Base" does not fit`, "as basesystem"},
		{small + "base: /base.yaml\n", `3: base: "/base.yaml" is not the file`, ""},
		{small + "host: [lib]\n", `3: host[0]: "lib" is not absolute`, ""},
		{small + "host: [/usr, \"/**\"]\n", "3: host[1]: \"/**\" would leave nothing", ""},
		{small + "host: [/usr, /usr]\n", "host[1]: \"/usr\" is listed twice", ""},
		{small + "env:\n  - A=b\n  - B\n", `5: env[1]: "B" does not fit`, "NAME=VALUE"},
		{small + "env: [A=b, A=c]\n", "3: env[1]: A is given twice", ""},
		{small + "labels: [A=b]\n", `labels[0]: "A=b" does not fit`, "lower case"},
		{small + "labels: [eos.base=x]\n", "labels[0]: labels that begin with eos. are set by the build", ""},
		{small + "entrypoint: [\"\"]\n", `entrypoint[0]: "" is not a word`, ""},
		{small + "cmd: sh -c x\n", "3: cmd: is the text", "[a, b]"},
		{small + "user: \"a b\"\n", `3: user: "a b" does not fit`, "USER:GROUP"},
		{small + "workdir: tmp\n", `workdir: "tmp" is not absolute`, ""},
		{small + "files: [{path: /removed, content: x}]\n", "/removed is made from host:", ""},
	} {
		_, err := imagespec.ParseContainer("c.yaml", []byte(tt.text))
		checkProblem(t, tt.text, err, tt.want, tt.hint)
	}
	if s, err := imagespec.ParseContainer("c.yaml", []byte(small+"arch: arm64\n")); err != nil || s.Supported() == nil {
		t.Errorf("a container for arm64: %v, want that it cannot be built yet", err)
	}
}

func TestKindOf(t *testing.T) {
	for text, want := range map[string]string{small: imagespec.KindContainer, podmanHead: "", "": "", "a: [": ""} {
		if got := imagespec.KindOf([]byte(text)); got != want {
			t.Errorf("KindOf(%q) = %q, want %q", text, got, want)
		}
	}
}

// What containers are made from is read with the description, and shows in its digest.
func TestLoadContainers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("eos.yaml", podmanHead+"containers: [{name: a, archive: a.tar}, {name: b, folder: b}, {name: c, build: c/c.yaml}]\n")
	write("a.tar", "one")
	write("b/index.json", "{}")
	write("c/c.yaml", small+"files: [{path: /etc/x, source: x}]\n")
	write("c/x", "x")
	load := func() (*imagespec.Spec, error) { return imagespec.Load(filepath.Join(dir, "eos.yaml"), "") }
	s, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if c := s.Containers; c[0].Sum == "" || c[1].Sum == "" || c[2].Spec == nil || c[2].Spec.Files[0].Sum == "" {
		t.Errorf("containers = %+v, want what they come from to be read", c)
	}
	if got, want := s.ContainerPath(s.Containers[2]), filepath.Join(dir, "c/c.yaml"); got != want {
		t.Errorf("ContainerPath = %q, want %q", got, want)
	}
	seen := map[string]bool{s.Digest(): true}
	for _, change := range [][2]string{{"a.tar", "two"}, {"b/index.json", "{} "}, {"c/x", "y"}, {"c/c.yaml", small + "packages: [bash]\n"}} {
		name := change[0]
		write(name, change[1])
		s, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if seen[s.Digest()] {
			t.Errorf("a change of %s does not show in the digest", name)
		}
		seen[s.Digest()] = true
	}

	write("c/c.yaml", "kind: container\nname: A\narch: arm64\n")
	if err := os.Remove(filepath.Join(dir, "a.tar")); err != nil {
		t.Fatal(err)
	}
	_, err = load()
	checkProblem(t, "missing archive", err, "containers[0].archive: open ", "relative to the folder")
	checkProblem(t, "faulty description", err, `c.yaml:2: name: "A" does not fit`, "")
	write("c/c.yaml", small+"arch: arm64\n")
	_, err = load()
	checkProblem(t, "another machine", err, "the container is for arm64, the image for amd64", "")
}

// A delta takes where its packages come from from its base, which is read with it and shows
// in the digest of an image that has it.
func TestLoadDelta(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	base := "kind: container\nname: base\ndebian: {suite: sid, mirror: \"http://deb.example.org\"}\n"
	write("apps/base.yaml", base)
	write("apps/app.yaml", "kind: container\nname: app\nbase: base\n")
	write("other/app.yaml", "kind: container\nname: app\nbase: ../apps/base.yaml\n")
	write("images/eos.yaml", podmanHead+"containers: [{name: app, build: ../apps/app.yaml}]\n")
	for _, file := range []string{"apps/app.yaml", "other/app.yaml"} {
		s, err := imagespec.LoadContainer(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if s.BaseSpec == nil || s.BaseSpec.Name != "base" || s.Debian != s.BaseSpec.Debian || s.Debian.Suite != "sid" {
			t.Errorf("%s: base %+v and packages of %+v, want those of the base", file, s.BaseSpec, s.Debian)
		}
	}
	digest := func() string {
		t.Helper()
		s, err := imagespec.Load(filepath.Join(dir, "images/eos.yaml"), "")
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest()
	}
	before := digest()
	write("apps/base.yaml", base+"packages: [bash]\n")
	if digest() == before {
		t.Error("a change of the base does not show in the digest of an image with the delta")
	}
	for _, tt := range []struct{ text, want, hint string }{
		{"base: none\n", "app.yaml:3: base: open image description: open ", "relative to the folder"},
		{"base: app\n", "app.yaml:3: base: app is a delta itself", "whole"},
		{"base: base\ndebian: {suite: trixie}\n", "app.yaml:4: debian.suite: is trixie, base is of sid", "leave it out"},
		{"base: base\narch: arm64\n", "app.yaml:4: arch: is arm64, base is for amd64", "leave it out"},
		{"base: bad.yaml\n", `bad.yaml:2: name: "A" does not fit`, ""},
	} {
		write("apps/bad.yaml", "kind: container\nname: A\n")
		write("apps/app.yaml", "kind: container\nname: app\n"+tt.text)
		_, err := imagespec.LoadContainer(filepath.Join(dir, "apps/app.yaml"))
		checkProblem(t, tt.text, err, tt.want, tt.hint)
	}
}

// What is shipped is right, and each delta stands on the base that is in the product image.
func TestShippedContainers(t *testing.T) {
	files, err := filepath.Glob("../../apps/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("descriptions %v, %v, want those of the applications", files, err)
	}
	for _, file := range files {
		s, err := imagespec.LoadContainer(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if want := s.Name + ".yaml"; filepath.Base(file) != want {
			t.Errorf("%s describes %s", file, s.Name)
		}
		if s.BaseSpec != nil && s.BaseSpec.Name != "basesystem" {
			t.Errorf("%s stands on %s", file, s.BaseSpec.Name)
		}
	}
	product, err := imagespec.Load("../../images/eos.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	if c := product.Containers; len(c) != 1 || c[0].Spec == nil || c[0].Name != "basesystem" {
		t.Errorf("containers of the product image %+v, want basesystem", c)
	}
}

func FuzzParseContainer(f *testing.F) {
	f.Add(small + "packages: [bash]\n")
	f.Add(small + "base: b\nhost: [/a/**]\nenv: [A=b]\nlabels: [a=b]\ncmd: [a]\nuser: a:1\n")
	f.Add("kind: container\nfiles: [{path: /a, link: b}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := imagespec.ParseContainer("c.yaml", []byte(text))
		if (s == nil) == (err == nil) {
			t.Errorf("ParseContainer = %v, %v", s, err)
		}
	})
}
