package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// targetsJSON is the signed part of a good targets file, with change applied.
func targetsJSON(change func(string) string) string {
	sum := strings.Repeat("ab", 32)
	custom := `{"format":1,"name":"eos","class":"qemu","arch":"amd64","version":"1","build_id":"b","channel":"stable",` +
		`"data_size":8192,"image_size":20480,"min_slot_size":20480,"built":1,"index":"eos/qemu/1/index","blob":"eos/qemu/1/blob"}`
	target := func(length int, custom string) string {
		return fmt.Sprintf(`{"length":%d,"hashes":{"sha256":"%s"}%s}`, length, sum, custom)
	}
	return change(`{"eos/qemu/1/manifest":` + target(4096, `,"custom":`+custom) +
		`,"eos/qemu/1/index":` + target(104, "") + `,"eos/qemu/1/blob":` + target(12288, "") + `}`)
}

func parseCatalog(text string) (*Catalog, error) {
	var targets map[string]*metadata.TargetFiles
	if err := json.Unmarshal([]byte(text), &targets); err != nil {
		return nil, err
	}
	return newCatalog(targets), nil
}

func TestCatalogEntries(t *testing.T) {
	for _, test := range []struct {
		from, to string
		images   int
		problem  string
	}{
		{"", "", 1, ""},
		{`"format":1`, `"format":2`, 0, ""},
		{`"format":1,`, ``, 0, ""},
		{`"custom":{`, `"custo":{`, 0, ""},
		{`"custom":{`, `"custom":[{}],"x":{`, 0, "custom metadata"},
		{`"name":"eos"`, `"name":"other"`, 0, "entry is for other/qemu/1"},
		{`"name":"eos"`, `"name":"../eos"`, 0, "name is"},
		{`"class":"qemu"`, `"class":""`, 0, "class is"},
		{`"arch":"amd64"`, `"arch":"amd64/"`, 0, "arch is"},
		{`"version":"1"`, `"version":"x"`, 0, `version "x"`},
		{`"version":"1"`, `"version":"2"`, 0, "entry is for eos/qemu/2"},
		{`"channel":"stable"`, `"channel":" "`, 0, "channel is"},
		{`"channel":"stable"`, `"channel":"testing"`, 1, ""},
		{`"index":"eos/qemu/1/index"`, `"index":"eos/qemu/2/index"`, 0, "no target"},
		{`"blob":"eos/qemu/1/blob"`, `"blob":"eos/qemu/1/index"`, 0, "blob has 104"},
		{`"data_size":8192`, `"data_size":-4096`, 0, "blob has"},
		{`"data_size":8192`, `"data_size":9223372036854775807`, 0, "blob has"},
		{`"image_size":20480`, `"image_size":1`, 0, "image size 1"},
		{`"min_slot_size":20480`, `"min_slot_size":20479`, 0, "slot size 20479"},
		{`"length":4096`, `"length":4095`, 0, "manifest block has"},
		{`"length":104,"hashes":{"sha256"`, `"length":104,"hashes":{"sha512"`, 0, "no SHA-256"},
		{`"length":104,`, `"length":-1,`, 0, "no SHA-256"},
	} {
		c, err := parseCatalog(targetsJSON(func(s string) string {
			if test.from != "" && !strings.Contains(s, test.from) {
				t.Fatalf("%q is not in the entry", test.from)
			}
			return strings.Replace(s, test.from, test.to, 1)
		}))
		if err != nil {
			t.Fatalf("%s -> %s: %v", test.from, test.to, err)
		}
		problems := strings.Join(c.Problems(), "\n")
		if len(c.All()) != test.images || (problems == "") != (test.problem == "") || !strings.Contains(problems, test.problem) {
			t.Errorf("%s -> %s: %d images, problems %q; want %d, %q", test.from, test.to, len(c.All()), problems, test.images, test.problem)
		}
	}
}

func TestCatalogChannel(t *testing.T) {
	c, err := parseCatalog(targetsJSON(func(s string) string { return strings.Replace(s, `"stable"`, `"testing"`, 1) }))
	if err != nil {
		t.Fatal(err)
	}
	if img, ok := c.Latest("eos", "qemu", "amd64", Stable); ok {
		t.Errorf("Latest = %s of channel %s, want none", img.Version, img.Channel)
	}
}

func TestCompareVersions(t *testing.T) {
	sorted := []string{"not a version", "0~", "0", "1~rc1", "1", "1+b1", "1.2", "1.10", "2", "1:0"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got, want := CompareVersions(a, b), cmpInt(i, j); got != want {
				t.Errorf("CompareVersions(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
	shuffled := []string{"1.10", "2", "1", "1~rc1"}
	slices.SortFunc(shuffled, CompareVersions)
	if diff := cmp.Diff([]string{"1~rc1", "1", "1.10", "2"}, shuffled); diff != "" {
		t.Errorf("sorted (-want +got):\n%s", diff)
	}
}

func cmpInt(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func FuzzCatalog(f *testing.F) {
	f.Add(targetsJSON(func(s string) string { return s }))
	f.Add(`{"a/manifest":null}`)
	f.Add(`{"a/manifest":{"custom":null}}`)
	f.Add(`{"a/manifest":{"custom":{"format":1}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCatalog(text)
		if err != nil {
			return
		}
		for _, img := range c.All() {
			for _, file := range []File{img.Manifest, img.Index, img.Blob} {
				if u := file.url(); u != filepath.Clean(u) || !strings.HasPrefix(u, "targets/"+img.Name+"/") || len(file.SHA256) != 64 {
					t.Errorf("file %+v is at %q", file, u)
				}
			}
		}
	})
}

// TestIncompleteMetadata signs metadata that says too little with the right
// keys: an error, not a panic.
func TestIncompleteMetadata(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	m, err := metadata.Timestamp().FromFile(filepath.Join(s.dir, "metadata/timestamp.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, meta := range map[string]map[string]*metadata.MetaFiles{
		"none": {}, "null": {"snapshot.json": nil}, "other": {"x.json": metadata.MetaFile(1)},
	} {
		m.Signed.Meta = meta
		b, err := sign(m, Keyring{s.key(OnlineKey)})
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(`"version":0`)) {
			t.Fatal("not what it should be")
		}
		if err := os.WriteFile(filepath.Join(s.dir, "metadata/timestamp.json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.client(s.serve(nil)).Refresh(t.Context()); !errors.Is(err, ErrUntrusted) {
			t.Errorf("timestamp with snapshot %s: %v, want %v", name, err, ErrUntrusted)
		}
		if _, err := Open(t.Context(), Folder(s.dir)); !errors.Is(err, ErrDamaged) {
			t.Errorf("Open with snapshot %s = %v, want %v", name, err, ErrDamaged)
		}
	}
}
