package device_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/device"
	"github.com/google/go-cmp/cmp"
)

const boot = `{"slot":"b","disk":"/dev/vda","disk_guid":"0fc63daf-8483-4772-8e79-3d69d8477de4","esp":"/dev/vda1",
"slots":{"a":"/dev/vda2","b":"/dev/vda3"},"registry":"/dev/vda4","trial_flag":true,"mapper":"/dev/mapper/eos-root",
"build_id":"abc","version":"1.2","timings":[{"step":"mounts","ms":12}],"later":1}`

func TestParse(t *testing.T) {
	got, err := device.Parse([]byte(boot))
	if err != nil {
		t.Fatal(err)
	}
	want := &device.Device{
		Slot: "b", Disk: "/dev/vda", DiskGUID: "0fc63daf-8483-4772-8e79-3d69d8477de4", ESP: "/dev/vda1",
		Slots:    map[device.Slot]string{"a": "/dev/vda2", "b": "/dev/vda3"},
		Registry: "/dev/vda4", Trial: true, Mapper: "/dev/mapper/eos-root", BuildID: "abc", Version: "1.2",
		Timings: []device.Timing{{Step: "mounts", MS: 12}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Other() != "a" {
		t.Errorf("Other() = %s, want a", got.Other())
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{`"slot":"b"`, `"slot":"c"`, `slot is "c"`},
		{`"slot":"b",`, ``, `slot is ""`},
		{`,"b":"/dev/vda3"`, ``, "no device for the running slot b"},
		{`/dev/vda3`, `/dev/vda2`, "same device"},
		{`"esp":"/dev/vda1",`, ``, "no EFI system partition"},
		{`0fc63daf`, `0FC63DAF`, "lower case"},
		{`0fc63daf-`, ``, "36"},
		{`"later":1}`, ``, "unexpected end"},
	} {
		in := strings.Replace(boot, c.old, c.new, 1)
		if _, err := device.Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%s -> %s) = %v, want an error with %q", c.old, c.new, err, c.want)
		}
	}
	if _, err := device.Load(filepath.Join(t.TempDir(), "boot.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load(missing) = %v, want %v", err, os.ErrNotExist)
	}
}

func TestOpenSlot(t *testing.T) {
	dir := t.TempDir()
	path := func(n string) string { return filepath.Join(dir, n) }
	for _, n := range []string{"a", "b"} {
		if err := os.WriteFile(path(n), make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &device.Device{Slot: "a", Slots: map[device.Slot]string{"a": path("a"), "b": path("b")}}
	b, err := d.OpenSlot("b", true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Size != 8192 {
		t.Errorf("size = %d, want 8192", b.Size)
	}
	if _, err := b.WriteAt([]byte("x"), 5); err != nil {
		t.Errorf("WriteAt = %v, want nil", err)
	}
	if err := b.DropCache(); err != nil {
		t.Errorf("DropCache = %v, want nil", err)
	}
	if _, err := d.OpenSlot("a", true); err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("OpenSlot(running, write) = %v, want an internal error", err)
	}
	r, err := d.OpenSlot("a", false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.WriteAt([]byte("x"), 5); err == nil {
		t.Error("a slot opened for reading can be written")
	}
	delete(d.Slots, "b")
	var none *device.NoSlotError
	if _, err := d.OpenSlot("b", false); !errors.As(err, &none) || none.Slot != "b" {
		t.Errorf("OpenSlot(b) with one slot = %v, want a NoSlotError", err)
	}
	if err := os.Truncate(path("a"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenSlot("a", false); err == nil {
		t.Error("OpenSlot(no size) = nil error")
	}
}
