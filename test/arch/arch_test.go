package arch_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/OSInside/eos/"

// pkg is what go list says of a package of this module.
type pkg struct {
	ImportPath, Dir string
	GoFiles         []string
	TestGoFiles     []string
	XTestGoFiles    []string
	Imports, Deps   []string
}

// name is the path without the module, like internal/cli.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

func list(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages, want the whole module", len(all))
	}
	return all
}

// layers orders the packages: one may import what is in its own layer or in one before,
// with the exceptions below. A package that is not here is an error: decide where it
// belongs.
var layers = [][]string{
	{ // leaves: nothing of ours
		"internal/cli", "internal/command", "internal/imagename", "internal/key",
	},
	{ // formats, pure logic, single tools and kernel interfaces
		"internal/bootstate", "internal/chunk", "internal/containerkeep", "internal/detach", "internal/device", "internal/dm", "internal/esp",
		"internal/fat", "internal/flake", "internal/fleet", "internal/gpt", "internal/grub", "internal/imagespec", "internal/imagestore", "internal/initramfs",
		"internal/kexec", "internal/kmod", "internal/oci", "internal/registry/head", "internal/registry/torn", "internal/registrystate", "internal/repository", "internal/s3store", "internal/sbom",
		"internal/sigstore",
		"internal/slot", "internal/slotimage", "internal/squashfs", "internal/toolstree",
		"internal/verity", "os",
	},
	{ // subjects: what a program is about
		"internal/earlyboot", "internal/image", "internal/inspect", "internal/origin", "internal/registry", "internal/serve", "internal/update",
		"internal/vm",
	},
	{ // programs
		"cmd/eos", "cmd/eos-init", "cmd/flake-ctl", "cmd/flake-registry", "cmd/fleet", "cmd/os-update", "cmd/os-update-daemon", "cmd/os-update-restricted",
		"cmd/podman-pilot",
	},
}

// layer returns the layer of a package and the entry of the table it belongs to: packages
// below another, like chunk/chunktest, are part of it.
func layer(name string) (int, string) {
	for i, names := range layers {
		for _, n := range names {
			if name == n || strings.HasPrefix(name, n+"/") {
				return i, n
			}
		}
	}
	return -1, ""
}

func TestImportDirection(t *testing.T) {
	leaves, subjects := 0, 2
	for _, p := range list(t) {
		if strings.HasPrefix(p.name(), "test/") {
			continue // may look at everything
		}
		from, subject := layer(p.name())
		if from < 0 {
			t.Errorf("package %s is in no layer: add it to the table", p.name())
			continue
		}
		for _, imp := range p.Imports {
			dep, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			to, other := layer(dep)
			switch {
			case to > from:
				t.Errorf("%s imports %s, which is above it", p.name(), dep)
			case to == from && from == leaves:
				t.Errorf("%s imports %s: a leaf imports nothing of ours", p.name(), dep)
			case to == from && from == subjects && subject != other:
				t.Errorf("%s imports %s: subjects do not know each other", p.name(), dep)
			}
		}
	}
}

// Packages for tests are for tests.
func TestTestPackagesStayInTests(t *testing.T) {
	for _, p := range list(t) {
		if strings.HasSuffix(p.name(), "test") || strings.HasPrefix(p.name(), "test/") {
			continue
		}
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module) && strings.HasSuffix(imp, "test") {
				t.Errorf("%s imports %s outside its tests", p.name(), imp)
			}
		}
	}
}

// forbidden are imports, direct or not, that a package must not have, and why.
var forbidden = []struct {
	in   string
	deps []string
	why  string
}{
	{
		"cmd/eos-init", []string{
			"net", "net/http", "crypto/tls", "crypto/x509", "go.yaml.in/yaml/v3", "github.com/spf13/cobra", "github.com/spf13/pflag",
			"github.com/schollz/progressbar/v3", module + "internal/cli", module + "internal/command", "os/exec",
		},
		"it is the only program of the initramfs: it has to be small, and has nothing to talk to or to run",
	},
	{
		"cmd/os-update", []string{"github.com/spf13/cobra", module + "internal/image", module + "internal/toolstree", module + "internal/vm"},
		"it is on every device",
	},
	{
		"cmd/fleet", []string{"github.com/spf13/cobra", "github.com/google/go-containerregistry/pkg/v1", "go.yaml.in/yaml/v3", "os/exec", module + "internal/image"},
		"it is alone in its container, with a private key: it has nothing to run, and stays small",
	},
	{
		"cmd/podman-pilot", []string{"github.com/spf13/cobra", "github.com/google/go-containerregistry/pkg/v1", "golang.org/x/crypto/ssh", module + "internal/image"},
		"it is started with every flake",
	},
	{
		"cmd/flake-ctl", []string{"github.com/google/go-containerregistry/pkg/v1", module + "internal/image", module + "internal/registry"},
		"it is on every device, and podman talks to the network",
	},
	{"internal/flake", []string{"net", "os/exec"}, "decisions are pure functions"},
	{"internal/flake/registration", []string{"net", "os/exec"}, "registering needs no podman"},
	{"internal/key", []string{"net", "go.yaml.in/yaml/v3"}, "eos-init checks signatures with it"},
	{"internal/slotimage", []string{"net", "os/exec"}, "a format works on readers and writers"},
	{"internal/verity", []string{"net", "os/exec"}, "a format works on readers and writers"},
	{"internal/squashfs", []string{"net", "os/exec"}, "a format works on readers and writers"},
	{"internal/slot", []string{"net", "os/exec"}, "decisions are pure functions"},
	{"internal/registry/torn", []string{"net", "os/exec"}, "a format works on readers and writers"},
	{"internal/bootstate", []string{"net", "os/exec"}, "decisions are pure functions"},
	{"internal/imagespec", []string{"net/http", "os/exec"}, "reading a description has no effects"},
	{"internal/imagestore", []string{"net/http", "os/exec"}, "it lays out what others fetched"},
}

func TestForbiddenImports(t *testing.T) {
	for _, f := range forbidden {
		found := false
		for _, p := range list(t) {
			if p.name() != f.in {
				continue
			}
			found = true
			for _, dep := range f.deps {
				if slices.Contains(p.Deps, dep) {
					t.Errorf("%s depends on %s, and must not: %s", f.in, dep, f.why)
				}
			}
		}
		if !found {
			t.Errorf("package %s does not exist: remove it from the table", f.in)
		}
	}
}

// What eos-init is made of, and what runs programs, uses only the standard library.
func TestStandardLibraryOnly(t *testing.T) {
	for _, name := range []string{"internal/key", "internal/command", "internal/bootstate", "internal/slotimage", "internal/verity", "internal/squashfs"} {
		for _, p := range list(t) {
			if p.name() != name {
				continue
			}
			for _, dep := range p.Deps {
				first, _, _ := strings.Cut(dep, "/")
				if strings.Contains(first, ".") && !strings.HasPrefix(dep, module) {
					t.Errorf("%s depends on %s, want only the standard library", name, dep)
				}
			}
		}
	}
}

func TestNoPackagesWithoutASubject(t *testing.T) {
	for _, p := range list(t) {
		for _, word := range []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "types", "base", "lib"} {
			if filepath.Base(p.name()) == word {
				t.Errorf("package %s: a package is named for its subject", p.name())
			}
		}
	}
}

// source is a parsed file that is no test.
type source struct {
	path string
	file *ast.File
	set  *token.FileSet
}

func sources(t *testing.T, p pkg) []source {
	t.Helper()
	var all []source
	for _, name := range p.GoFiles {
		set := token.NewFileSet()
		path := filepath.Join(p.Dir, name)
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatalf("parse %s: %v", path, err)
		}
		all = append(all, source{filepath.Join(p.name(), name), f, set})
	}
	return all
}

func TestPackageDocs(t *testing.T) {
	for _, p := range list(t) {
		docs, text := 0, ""
		for _, s := range sources(t, p) {
			if s.file.Doc != nil {
				docs++
				text = s.file.Doc.Text()
			}
		}
		if len(p.GoFiles) == 0 {
			continue // only tests
		}
		base, least := filepath.Base(p.name()), 3
		begin := []string{"Package " + base + " "}
		if strings.HasPrefix(p.name(), "cmd/") {
			begin = []string{"Command " + base + " ", strings.ToUpper(base[:1]) + base[1:] + " "}
			least = 2 // its help says the rest
		}
		if p.name() == "os" {
			begin[0] = "Package osfiles " // the name os is taken
		}
		if strings.HasSuffix(base, "test") {
			least = 1
		}
		switch {
		case docs != 1:
			t.Errorf("package %s has %d package comments, want 1", p.name(), docs)
		case !slices.ContainsFunc(begin, func(b string) bool { return strings.HasPrefix(text, b) }):
			t.Errorf("the comment of %s begins %.40q, want %q", p.name(), text, begin[0])
		case strings.Count(text, "\n") < least:
			t.Errorf("the comment of %s has %d lines: say what it is for, what it does not do, and what it promises", p.name(), strings.Count(text, "\n"))
		}
	}
}

// wellKnown are methods that need no comment: their name says it all.
var wellKnown = map[string]bool{"Error": true, "Unwrap": true, "String": true}

// Every exported name at the top of a package says what it is.
func TestExportedNamesAreCommented(t *testing.T) {
	for _, p := range list(t) {
		if !strings.HasPrefix(p.name(), "internal/") {
			continue
		}
		for _, s := range sources(t, p) {
			for _, d := range s.file.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Name.IsExported() && d.Doc == nil && !wellKnown[d.Name.Name] && exportedReceiver(d) {
						t.Errorf("%s: %s has no comment", s.set.Position(d.Pos()), d.Name)
					}
				case *ast.GenDecl:
					for _, spec := range d.Specs {
						if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil {
							t.Errorf("%s: %s has no comment", s.set.Position(ts.Pos()), ts.Name)
						}
					}
				}
			}
		}
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

// Error texts are put together to a sentence: see CONTRIBUTING.md.
func TestErrorTexts(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		for _, s := range sources(t, p) {
			ast.Inspect(s.file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				fun, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				from, ok := fun.X.(*ast.Ident)
				if !ok || from.Name+"."+fun.Sel.Name != "errors.New" && from.Name+"."+fun.Sel.Name != "fmt.Errorf" {
					return true
				}
				lit, ok := call.Args[0].(*ast.BasicLit)
				if !ok {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				if err != nil {
					return true
				}
				seen++
				where := s.set.Position(lit.Pos())
				for _, word := range []string{"failed to", "unable to", "could not", "cannot ", "error "} {
					if strings.HasPrefix(text, word) {
						t.Errorf("%s: error text %q begins with %q; say what was done: \"open x: %%w\"", where, text, word)
					}
				}
				if strings.HasSuffix(text, ".") || strings.HasSuffix(text, "!") || strings.HasSuffix(text, "\n") {
					t.Errorf("%s: error text %q ends like a sentence", where, text)
				}
				if len(text) > 1 && text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'a' && text[1] <= 'z' {
					t.Errorf("%s: error text %q begins with a capital letter", where, text)
				}
				return true
			})
		}
	}
	if seen < 100 {
		t.Errorf("%d error texts seen, want all of them", seen)
	}
}

func TestFileSizes(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			most := 600
			if strings.HasSuffix(name, "_test.go") {
				most = 1000 // tables
			}
			data, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(data), "\n"); n > most {
				t.Errorf("%s/%s has %d lines, more than %d: split it", p.name(), name, n, most)
			}
		}
	}
}

// Work that is left to do is in the issues, not in the source.
func TestNoLeftovers(t *testing.T) {
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"}
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if slices.Contains([]string{".git", "bin", "build", "out"}, e.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".md", ".yaml", ".sh", ".service"}, filepath.Ext(path)) && e.Name() != "Makefile" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range marks {
			if strings.Contains(string(data), m) {
				t.Errorf("%s has a %q", path, m)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
