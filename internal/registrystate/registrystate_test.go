package registrystate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/registrystate"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text   string
		ok     bool
		reason string
	}{
		{`{"state": "ok", "device": "/dev/vda4"}`, true, ""},
		{`{"state": "degraded", "reason": "no TPM"}`, false, "no TPM"},
		{`{"state": "degraded"}`, false, `its state is "degraded"`},
		{`{"state": "OK"}`, false, `its state is "OK"`},
		{`{}`, false, `its state is ""`},
		{`[]`, false, "cannot be read"},
		{`{"state": "ok"`, false, "cannot be read"},
		{``, false, "cannot be read"},
	} {
		got := registrystate.Parse([]byte(c.text))
		if got.OK != c.ok || !strings.Contains(got.Reason, c.reason) || c.ok == (got.Reason != "") {
			t.Errorf("Parse(%s) = %+v, want %v, %q", c.text, got, c.ok, c.reason)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.json")
	if got := registrystate.Load(path); got.OK || !strings.Contains(got.Reason, "not activated") {
		t.Errorf("Load of no file = %+v, want that it was not activated", got)
	}
	if got := registrystate.Load(filepath.Dir(path)); got.OK || got.Reason == "" {
		t.Errorf("Load of a folder = %+v, want a reason", got)
	}
	if err := os.WriteFile(path, []byte(`{"state":"ok"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := registrystate.Load(path); !got.OK {
		t.Errorf("Load = %+v, want ok", got)
	}
}

// Whatever another program leaves there, only a whole object that says so is a registry.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"state":"ok"}`, `{"state":"degraded","reason":"x"}`, `null`, `{"state":1}`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := registrystate.Parse(b)
		if got.OK && !strings.Contains(string(b), "ok") && !strings.Contains(string(b), `\u`) {
			t.Errorf("Parse(%q) = ok", b)
		}
		if got.OK == (got.Reason != "") {
			t.Errorf("Parse(%q) = %+v, want a reason where it is not ok", b, got)
		}
	})
}
