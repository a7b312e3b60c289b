package flake_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/flake"
)

// fleet is a registration as flake-ctl of the older system writes it.
const fleet = `---
include:
  tar:
  path: ~

container:
  name: fleet
  host_app_path: /usr/bin/fleet
  target_app_path: /fleet
  check_host_dependencies: false
  runtime:
    runas: root
    resume: false
    podman:
      - --rm
      - -i
      - --volume /run:/run
vm: null
`

func parse(name string, texts ...string) (*flake.Registration, error) {
	var files []flake.File
	for i, text := range texts {
		files = append(files, flake.File{Path: name + ".d/" + string(rune('a'+i)), Text: []byte(text)})
	}
	return flake.Parse(name, files)
}

func TestParse(t *testing.T) {
	want := &flake.Registration{Name: "fleet", Container: flake.Container{
		Name: "fleet", Host: "/usr/bin/fleet", Target: "/fleet",
		Runtime: flake.Runtime{RunAs: "root", Podman: []string{"--rm", "-i", "--volume /run:/run"}},
	}}
	got, err := parse("fleet", fleet)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Parse: %v (-want +got):\n%s", err, diff)
	}
	// Drop-ins change what they name and nothing else, also with --- and without a line end.
	want.Container.Runtime.Podman = []string{"-t"}
	want.Container.Runtime.Attach = true
	want.Container.Target = "/other"
	want.Include.Path = []string{"/etc/hosts"}
	got, err = parse("fleet", fleet,
		"---\ncontainer:\n  target_app_path: /other\n  runtime:\n    attach: true",
		"", "# nothing\n", "container:\n",
		"include: {path: [/etc/hosts]}\ncontainer: {runtime: {podman: [-t], resume: }}")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Parse with drop-ins: %v (-want +got):\n%s", err, diff)
	}
	text, err := flake.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	again, err := parse("fleet", string(text))
	if diff := cmp.Diff(want, again); err != nil || diff != "" {
		t.Errorf("Parse of Marshal: %v (-want +got):\n%s", err, diff)
	}
	if got, err := parse("bash", "container: {name: bash, host_app_path: /usr/bin/bash}"); err != nil || got.Root() {
		t.Errorf("Parse without runtime = %+v, %v, want the caller's", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const base = "container:\n  name: x\n  host_app_path: /x\n"
	for _, c := range []struct{ text, want string }{
		{"", "container: is missing"},
		{"vm: {name: x}\n", "x.d/a:1: vm: flakes that are virtual machines"},
		{"include: []\n" + base, "x.d/a:1: include: want keys and values"},
		{base + "  nmae: y\n", "x.d/a:4: container.nmae: unknown key; known here: name,"},
		{base + "  name: y\n", "x.d/a:4: name: given twice, first in line 2"},
		{base + "other: 1\n", "x.d/a:4: other: unknown key"},
		{"container:\n  host_app_path: /x\n", "x.d/a:2: container.name: is missing"},
		{"container:\n  name: --privileged\n  host_app_path: /x\n", "not the name of an image"},
		{base + "  runtime: {resume: true}\n", "x.d/a:4: container.runtime.runas: is missing"},
		{base + "  runtime: {runas: root, resume: yes please}\n", "want true or false"},
		{base + "  runtime: {runas: 0}\n", "want a text"},
		{base + "  runtime: {runas: root, podman: -t}\n", "want a list"},
		{base + "  runtime: {runas: root, podman: [[-t]]}\n", "want words"},
		{base + "  layers: &a [x]\n", "anchors and aliases"},
		{base + "  layers: !!set {x}\n", "tag"},
		{base + "---\n" + base, "x.d/a:4: a second document"},
		{base + "? [a]\n: b\n", "a key has to be a word"},
		{"\tcontainer:\n", "x.d/a:1: "},
		{strings.Repeat("[", 5000), "x.d/a:"},
		{"a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "in each other"},
	} {
		if _, err := parse("x", c.text); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Parse(%.60q) = %v, want %q", c.text, err, c.want)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "../x", "a\x00"} {
		if _, err := parse(name, base); !errors.Is(err, flake.ErrName) {
			t.Errorf("Parse of %q = %v, want %v", name, err, flake.ErrName)
		}
		if _, err := flake.Find("/", "/", name); !errors.Is(err, flake.ErrName) {
			t.Errorf("Find of %q = %v, want %v", name, err, flake.ErrName)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	find := func(name, want string, shipped bool) {
		t.Helper()
		r, err := flake.Find(dir+"/registry", dir+"/image", name)
		if err != nil || r.Container.Target != want || r.Shipped != shipped {
			t.Errorf("Find(%s) = %+v, %v, want %s, shipped %v", name, r, err, want, shipped)
		}
	}
	put("image/fleet.yaml", fleet)
	put("image/fleet.d/10-x.yaml", "container: {target_app_path: /shipped}")
	put("image/fleet.d/folder/x.yaml", "nonsense: [")
	find("fleet", "/shipped", true) // there is no registry
	put("registry/other.yaml", fleet)
	find("fleet", "/shipped", true)
	find("other", "/fleet", false)
	put("registry/fleet.yaml", fleet)
	put("registry/fleet.d/b", "container: {target_app_path: /b}")
	put("registry/fleet.d/a", "container: {target_app_path: /a}")
	find("fleet", "/b", false)

	var missing *flake.NotFoundError
	if _, err := flake.Find(dir+"/registry", dir+"/image", "none"); !errors.As(err, &missing) || missing.Name != "none" {
		t.Errorf("Find(none) = %v, want that it is not registered", err)
	}
	// What cannot be read in the registry does not hide what is in the image.
	put("file", "")
	r, err := flake.Find(dir+"/file", dir+"/image", "fleet")
	if err != nil || !r.Shipped {
		t.Errorf("Find with a broken registry = %+v, %v, want the image's", r, err)
	}
	if _, err := flake.Find(dir+"/file", dir+"/image", "other"); err == nil || errors.Is(err, fs.ErrNotExist) || errors.As(err, &missing) {
		t.Errorf("Find with a broken registry = %v, want that it cannot be read", err)
	}
	put("registry/broken.yaml", "container: {")
	if _, err := flake.Find(dir+"/registry", dir+"/image", "broken"); err == nil || !strings.Contains(err.Error(), "broken.yaml:") {
		t.Errorf("Find of a broken one = %v, want file and line", err)
	}
	put("registry/large.yaml", strings.Repeat("#", 1<<20+1))
	if _, err := flake.Find(dir+"/registry", dir+"/image", "large"); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("Find of a large one = %v", err)
	}
}

// Files of other people's flakes: no panic, an error that is one line and names the file, and
// what was understood is written as something that is understood alike.
func FuzzParse(f *testing.F) {
	f.Add([]byte(fleet), []byte("container:\n  runtime:\n    podman: [-t]\n"))
	f.Add([]byte("container: {name: x, host_app_path: y, layers: [1, 2.5, true, ~, \"\\\"\"]}"), []byte("---\n"))
	f.Add([]byte("a: &a [*a]"), []byte("? ? ?"))
	f.Add([]byte("include: !!binary aGk="), []byte("\xff\xfe"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		r, err := flake.Parse("x", []flake.File{{Path: "x.yaml", Text: a}, {Path: "x.d/b", Text: b}})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "x.yaml:") && !strings.HasPrefix(err.Error(), "x.d/b:") {
				t.Errorf("Parse = %q, want the file first", err)
			}
			return
		}
		text, err := flake.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := flake.Parse("x", []flake.File{{Path: "x.yaml", Text: text}})
		if err != nil {
			t.Fatalf("Parse of %s: %v", text, err)
		}
		second, err := flake.Marshal(again)
		if err != nil || string(second) != string(text) {
			t.Fatalf("written again: %s, %v, want %s", second, err, text)
		}
	})
}
