package esp_test

import (
	"errors"
	"os"
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
		if _, err := v.State(); err == nil {
			t.Errorf("State() of %d bytes = nil error", size)
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
