package registrystate_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/registry"
	"github.com/OSInside/eos/internal/registrystate"
)

// What package registry writes is what is read here.
func TestRegistryStatus(t *testing.T) {
	for _, st := range []registry.Status{{State: registry.StateOK}, {State: registry.StateDegraded, Problem: "no TPM"}} {
		text, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := registrystate.Parse(text), (registrystate.State{OK: st.State == registry.StateOK, Reason: st.Problem}); got != want {
			t.Errorf("Parse(%s) = %+v, want %+v", text, got, want)
		}
	}
	if registrystate.File != registry.StateFile {
		t.Errorf("File is %s, the registry's %s", registrystate.File, registry.StateFile)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text   string
		ok     bool
		reason string
	}{
		{`{"state": "ok", "device": "/dev/vda4"}`, true, ""},
		{`{"state": "degraded", "problem": "no TPM"}`, false, "no TPM"},
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
	for _, s := range []string{`{"state":"ok"}`, `{"state":"degraded","problem":"x"}`, `null`, `{"state":1}`, "\x00"} {
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
