package assemble

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestMergeConfig(t *testing.T) {
	for _, c := range []struct{ below, over, want string }{
		{`{}`, `{"Cmd":["a"]}`, `{"Cmd":["a"]}`},
		{`{"Cmd":["a"],"Entrypoint":["e"],"User":"u"}`, `{"Cmd":null,"Entrypoint":[],"User":""}`, `{"Cmd":["a"],"Entrypoint":["e"],"User":"u"}`},
		{`{"Cmd":["a"],"Entrypoint":["e"]}`, `{"Cmd":["b"]}`, `{"Cmd":["b"]}`},
		{`{"Cmd":["a"],"Entrypoint":["e"]}`, `{"Entrypoint":["f"]}`, `{"Entrypoint":["f"]}`},
		{`{"Env":["A=1","B=2","A=3"]}`, `{"Env":["A=4","C=5"]}`, `{"Env":["B=2","A=4","C=5"]}`},
		{`{"Labels":{"a":"1","b":"2"}}`, `{"Labels":{"b":"3"}}`, `{"Labels":{"a":"1","b":"3"}}`},
		{`{"WorkingDir":"/a"}`, `{"WorkingDir":"/b","Volumes":{}}`, `{"WorkingDir":"/b"}`},
	} {
		var below, over map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal([]byte(c.below), &below), json.Unmarshal([]byte(c.over), &over)); err != nil {
			t.Fatal(err)
		}
		got, err := mergeConfig(below, over)
		text, _ := json.Marshal(got)
		if err != nil || string(text) != c.want {
			t.Errorf("mergeConfig(%s, %s) = %s, %v, want %s", c.below, c.over, text, err, c.want)
		}
	}
	if _, err := mergeConfig(map[string]json.RawMessage{"Env": []byte(`["A=1"]`)}, map[string]json.RawMessage{"Env": []byte(`3`)}); err == nil {
		t.Error("mergeConfig of a bad Env is no error")
	}
}

func TestFind(t *testing.T) {
	id := func(c string) string { return strings.Repeat(c, 64) }
	all := []Image{
		{ID: id("a"), Digest: "sha256:" + id("1"), Names: []string{"reg.example.com/apps/app:latest"}},
		{ID: id("b"), Digest: "sha256:" + id("2"), Names: []string{"localhost/app:latest", "localhost/app:1"}},
		{ID: id("c"), Digest: "sha256:" + id("3"), Names: []string{"reg.example.com:5000/other:2@sha256:" + id("3")}},
	}
	for name, want := range map[string]string{
		"app": "b", "app:1": "b", "localhost/app": "b", "app:2": "", "reg.example.com/apps/app": "a", "apps/app": "a", "localhost/apps/app": "",
		id("a"): "a", "sha256:" + id("c"): "c", id("d"): "", "app@sha256:" + id("2"): "b", "localhost/app:1@sha256:" + id("2"): "b", "app@sha256:" + id("1"): "",
		"reg.example.com/apps/app@sha256:" + id("1"): "a", "reg.example.com:5000/other@sha256:" + id("3"): "c", "": "", "App": "", "a b": "",
	} {
		got, ok := Find(all, name)
		if ok != (want != "") || ok && got.ID != id(want) {
			t.Errorf("Find(%s) = %.5s, %v, want %q", name, got.ID, ok, want)
		}
	}
}

func TestStale(t *testing.T) {
	made := func(name, at string) Image { return Image{Names: []string{"localhost/" + name}, Made: at} }
	all := []Image{made("x:1", "2026-01-01"), made("x:2", "2026-01-03"), made("x:3", "2026-01-02"), made("y:1", "2026-01-01"), made("x:4", "2026-01-04")}
	if got := stale(all, "localhost/x:4"); !slices.Equal(got, []string{"localhost/x:3", "localhost/x:1"}) {
		t.Errorf("stale = %q", got)
	}
	if got := stale(all, "localhost/z:1"); got != nil {
		t.Errorf("stale of another = %q", got)
	}
}

func TestChoose(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	may := dir + "/may"
	if err := errors.Join(os.MkdirAll(may+"/real", 0o755), os.MkdirAll(dir+"/not", 0o755), os.WriteFile(may+"/file", nil, 0o644), os.WriteFile(may+"/real/in", nil, 0o644),
		os.WriteFile(may+"/secret", nil, 0o600), os.Mkdir(may+"/closed", 0o700), os.WriteFile(dir+"/not/file", nil, 0o644), os.Symlink("../not", may+"/out"), os.Symlink("may/real", dir+"/into"),
		os.Symlink("../not/file", may+"/link"), os.Symlink("loop", may+"/loop"), syscall.Mkfifo(may+"/pipe", 0o644)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"may/file": may + "/file", "may/none": "", "may/none/deep/er": "", "may/file/below": "", "may/" + strings.Repeat("x", 300): "", "into/in": may + "/real/in", "into/none/x": "",
		"may/link": may + "/link", "may": may, "may/../may/file": may + "/file",
		"not/file": "!", "not/none": "!", "may/out/file": "!", "may/out/none": "!", "may/../not/file": "!", "may/secret": "!", "may/closed": "!", "may/pipe": "!", "mayor": "!", "may/loop/x": "!",
	} {
		list, err := parseList([]byte(dir + "/" + path + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := choose(list, []string{may})
		if (err != nil) != (want == "!") || err == nil && (len(got) > 0) != (want != "") || len(got) > 0 && got[0].path != want {
			t.Errorf("choose(%s) = %v, %v, want %s", path, got, err, want)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte("/usr/bin/a\nb/../c\r\n\n//x\n../../etc/shadow"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseList(data)
		for _, p := range got {
			if err == nil && (!filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsAny(p, "\n\x00")) {
				t.Errorf("parseList(%q) has %q", data, p)
			}
		}
	})
}

// Tables of a store that are spoiled are errors, not endless loops.
func FuzzTables(f *testing.F) {
	id := strings.Repeat("a", 64)
	f.Add([]byte(`[{"id": "`+id+`", "names": ["localhost/x:latest"], "layer": "`+id+`"}]`), []byte(`[{"id": "`+id+`", "parent": "`+id+`"}]`))
	f.Add([]byte(``), []byte(`[{}]`))
	f.Add([]byte(`[{"layer": "../../x"}]`), []byte(`[{"id": "../../x"}]`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, images, layers []byte) {
		if err := errors.Join(os.MkdirAll(dir+"/overlay-images", 0o755), os.MkdirAll(dir+"/overlay-layers", 0o755),
			os.WriteFile(dir+"/overlay-images/images.json", images, 0o644), os.WriteFile(dir+"/overlay-layers/layers.json", layers, 0o644)); err != nil {
			t.Fatal(err)
		}
		s := Store{dir}
		all, err := s.Images()
		if err != nil {
			return
		}
		Find(all, "x")
		stale(all, "localhost/x:1")
		for _, i := range all {
			chain, err := s.Chain(i)
			for _, l := range chain {
				if err == nil && filepath.Dir(filepath.Dir(l.dir)) != dir+"/overlay" {
					t.Errorf("a layer in %s", l.dir)
				}
			}
		}
	})
}
