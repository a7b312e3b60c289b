package flake_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/OSInside/eos/internal/flake"
)

// A file that is broken in whatever way hides no other flake.
func TestList(t *testing.T) {
	dir, shipped := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "container: {name: img, host_app_path: /bin/a}", "a.b.yaml": fleet,
		"built.yaml":   "container: {name: app, base_container: base, layers: [l1], target_app_path: /, host_app_path: /bin/built}",
		"vm.yaml":      "---\ninclude:\n  tar: ~\ncontainer: ~\nvm:\n  name: leap\n  target_app_path: /bin/bash\n  host_app_path: /bin/vm\n  runtime: {runas: root, firecracker: {boot_args: [x], mem_size_mib: 1}}\n",
		"empty.yaml":   "",
		"tab.yaml":     "\tx",
		"binary.yaml":  "\x00\x01\xff",
		"deep.yaml":    strings.Repeat("[", 5000),
		"twice.yaml":   "container: {name: a, name: b}",
		"unknown.yaml": "container: {name: a, host_app_path: /x, nmae: b}",
		"huge.yaml":    strings.Repeat("#", 2<<20),
		"novm.yaml":    "vm: {name: x}",
		"x\n.yaml":     "container: {name: img, host_app_path: /bin/a}",
		".hidden.yaml": "", ".yaml": "", "notes.txt": "", "README": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("n", 240)
	if err := errors.Join(os.Mkdir(dir+"/folder.yaml", 0o755), os.Symlink("nowhere", dir+"/gone.yaml"), os.Mkdir(dir+"/a.d", 0o755),
		os.WriteFile(dir+"/a.d/10", []byte("container: {target_app_path: /bin/real}"), 0o644),
		os.WriteFile(dir+"/"+long+".yaml", []byte("container: {name: img, host_app_path: /bin/a}"), 0o644),
		os.WriteFile(shipped+"/fleet.yaml", []byte(fleet), 0o644), os.WriteFile(shipped+"/a.yaml", []byte(fleet), 0o644)); err != nil {
		t.Fatal(err)
	}
	got, err := flake.List(dir, shipped)
	if err != nil {
		t.Fatal(err)
	}
	good := []flake.Entry{
		{Name: "a", Engine: "podman", Image: "img", Target: "/bin/real", Host: "/bin/a"},
		{Name: "a.b", Engine: "podman", Image: "fleet", Target: "/fleet", Host: "/usr/bin/fleet"},
		{Name: "built", Engine: "podman", Image: "app", Parts: []string{"l1", "base"}, Target: "/", Host: "/bin/built"},
		{Name: "fleet", Engine: "podman", Image: "fleet", Target: "/fleet", Host: "/usr/bin/fleet", Shipped: true},
		{Name: "vm", Engine: "firecracker", Image: "leap", Target: "/bin/bash", Host: "/bin/vm"},
	}
	var fine []flake.Entry
	broken := map[string]bool{}
	for _, e := range got {
		if e.Err == nil {
			fine = append(fine, e)
			continue
		}
		broken[e.Name] = true
		if e.Engine != "" || e.Config != dir+"/"+e.Name+".yaml" || len(e.Name) < 100 && e.Name != "x\n" && !strings.Contains(e.Err.Error(), dir+"/"+e.Name+".yaml") {
			t.Errorf("broken entry %+v, want its file", e)
		}
	}
	if diff := cmp.Diff(good, fine, cmpopts.IgnoreFields(flake.Entry{}, "Config")); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for _, name := range []string{"empty", "tab", "binary", "deep", "twice", "unknown", "huge", "novm", "folder", "gone", "x\n", long} {
		if !broken[name] {
			t.Errorf("List does not have the broken %.20q", name)
		}
	}
	if len(broken) != 12 {
		t.Errorf("broken: %v, want 12", broken)
	}

	if got, err := flake.List(dir+"/none", shipped); err != nil || len(got) != 2 {
		t.Errorf("List without a folder = %v, %v, want the 2 of the image", got, err)
	}
	if got, err := flake.List(dir+"/a.yaml", shipped); err == nil || len(got) != 2 {
		t.Errorf("List of a file = %v, %v, want an error and the 2 of the image", got, err)
	}
}
