package esp_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/slot"
	"github.com/google/go-cmp/cmp"
)

func TestStateAndRecord(t *testing.T) {
	v := esp.Dir(t.TempDir())
	if _, err := v.State(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("State() of an empty volume = %v, want %v", err, os.ErrNotExist)
	}
	if _, err := v.Record(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Record() of an empty volume = %v, want %v", err, os.ErrNotExist)
	}
	s := bootstate.Factory()
	for range 2 {
		s.A.Good = !s.A.Good
		if err := v.SetState(s); err != nil {
			t.Fatal(err)
		}
		if got, err := v.State(); err != nil || got != s {
			t.Errorf("State() = %+v, %v, want %+v", got, err, s)
		}
	}
	for i := range 3 {
		r := slot.Record{Last: slot.Result{Op: slot.OpApply, Time: int64(i + 1)}}
		if err := v.SetRecord(r); err != nil {
			t.Fatal(err)
		}
		got, err := v.Record()
		r.Seq = got.Seq
		if diff := cmp.Diff(r, got); err != nil || diff != "" {
			t.Errorf("Record() = %v %s", err, diff)
		}
	}
	if err := v.SetState(bootstate.State{}); err == nil {
		t.Error("SetState of an impossible state = nil, want an error")
	}
}

func TestSetStateRepairsSize(t *testing.T) {
	for _, size := range []int64{0, 512, 4096} {
		v := esp.Dir(t.TempDir())
		if err := v.SetState(bootstate.Factory()); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(v.Path("EFI/eos/bootstate"), size); err != nil {
			t.Fatal(err)
		}
		if got, err := v.State(); err != nil || got != bootstate.Factory() {
			t.Errorf("State() of %d bytes = %+v, %v, want the copy", size, got, err)
		}
		if err := os.Truncate(v.Path("EFI/eos/bootstate2"), size); err != nil {
			t.Fatal(err)
		}
		if _, err := v.State(); err == nil || !strings.Contains(err.Error(), "bootstate2") {
			t.Errorf("State() of %d bytes and of a copy like it = %v, want an error about both", size, err)
		}
		want := bootstate.Factory()
		want.A.Good = true
		if err := v.SetState(want); err != nil {
			t.Fatal(err)
		}
		if got, err := v.State(); err != nil || got != want {
			t.Errorf("State() after repair of %d bytes = %+v, %v, want %+v", size, got, err, want)
		}
	}
}

// At every moment of a write one of the two files holds a whole state: the old or the new.
func TestSetStateHasACopy(t *testing.T) {
	before, after := bootstate.Factory(), bootstate.Factory()
	after.A.Good = true
	rubbish := bytes.Repeat([]byte{0xa5}, bootstate.BlockSize)
	for _, c := range []struct {
		name        string
		file, copy  []byte
		want        bootstate.State
		nothingLeft bool
	}{
		{"before", before.Marshal(), before.Marshal(), before, false},
		{"file lost", rubbish, before.Marshal(), before, false},
		{"between", after.Marshal(), before.Marshal(), after, false},
		{"copy lost", after.Marshal(), rubbish, after, false},
		{"after", after.Marshal(), after.Marshal(), after, false},
		{"both lost", rubbish, rubbish, before, true},
	} {
		v := esp.Dir(t.TempDir())
		if err := v.SetState(before); err != nil {
			t.Fatal(err)
		}
		for i, b := range [][]byte{c.file, c.copy} {
			if err := os.WriteFile(v.Path("EFI/eos/"+bootstate.Files[i]), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := v.State(); (err != nil) != c.nothingLeft || err == nil && got != c.want {
			t.Errorf("%s: State() = %+v, %v, want %+v", c.name, got, err, c.want)
		}
		if err := v.SetState(after); err != nil {
			t.Fatal(err)
		}
		for _, name := range bootstate.Files {
			if got, err := bootstate.ReadFile(v.Path("EFI/eos/" + name)); err != nil || got != after {
				t.Errorf("%s: %s after SetState = %+v, %v, want it healed", c.name, name, got, err)
			}
		}
	}
}
