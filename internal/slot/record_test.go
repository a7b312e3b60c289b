package slot_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/slot"
	"github.com/google/go-cmp/cmp"
)

func recordFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(path, make([]byte, slot.RecordSize), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRecordRoundTrip(t *testing.T) {
	path := recordFile(t)
	got, err := slot.ReadRecord(path)
	if err != nil || !cmp.Equal(got, slot.Record{}) {
		t.Fatalf("ReadRecord(zeros) = %+v, %v, want the zero record", got, err)
	}
	img := image(7)
	want := slot.Record{
		Failed:  []slot.Failure{{Image: image(3), Reason: `unit "x" <failed> & more`, Time: 5}},
		Last:    slot.Result{Op: slot.OpApply, Outcome: slot.OutcomeOK, Version: "1.7", Time: 6},
		Floors:  slot.Floors{Root: 1, Timestamp: 2, Snapshot: 3, Targets: 4},
		Writing: &img,
		Trial:   &slot.Attempt{Image: img, BootID: "id", Activation: "kexec", Time: 8},
		ProvenA: &img,
	}
	for seq := uint64(1); seq < 5; seq++ {
		want.Last.Time++
		if err := slot.WriteRecord(path, want); err != nil {
			t.Fatal(err)
		}
		want.Seq = seq
		got, err := slot.ReadRecord(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("ReadRecord after WriteRecord %d (-want +got):\n%s", seq, d)
		}
		before, _ := os.ReadFile(path)
		if err := slot.WriteRecord(path, want); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(path); !cmp.Equal(before, after) {
			t.Fatalf("WriteRecord of the same record changed the file")
		}
	}
}

// TestRecordTornWrite cuts a write after every number of bytes, with what was there
// before or with rubbish behind the cut: the old record or the new one must be read.
func TestRecordTornWrite(t *testing.T) {
	for writes := 0; writes < 4; writes++ {
		old := make([]byte, slot.RecordSize)
		was := slot.Record{}
		for i := 1; i <= writes; i++ {
			was = slot.Record{Seq: uint64(i), Last: slot.Result{Op: slot.OpApply, Time: int64(i)}}
			half, offset, err := slot.MarshalRecord(was)
			if err != nil {
				t.Fatal(err)
			}
			copy(old[offset:], half)
		}
		is := slot.Record{Seq: uint64(writes + 1), Last: slot.Result{Op: slot.OpCommit, Reason: strings.Repeat("x", 150)}}
		half, offset, err := slot.MarshalRecord(is)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n <= len(half); n++ {
			for _, rubbish := range []bool{false, true} {
				torn := append([]byte(nil), old...)
				if rubbish && n > 0 {
					for i := range half {
						torn[int(offset)+i] = 0xa5
					}
				}
				copy(torn[offset:], half[:n])
				got, err := slot.ParseRecord(torn)
				if err != nil || (!cmp.Equal(got, was) && !cmp.Equal(got, is)) {
					t.Fatalf("%d writes, cut after %d bytes: ParseRecord = %+v, %v, want the old or the new record", writes, n, got, err)
				}
				if n == len(half) && !cmp.Equal(got, is) {
					t.Fatalf("%d writes, complete: ParseRecord = %+v, want the new record", writes, got)
				}
			}
		}
	}
}

func TestRecordDamaged(t *testing.T) {
	b := make([]byte, slot.RecordSize)
	for seq := uint64(1); seq < 3; seq++ {
		half, offset, err := slot.MarshalRecord(slot.Record{Seq: seq})
		if err != nil {
			t.Fatal(err)
		}
		copy(b[offset:], half)
	}
	b[20] ^= 1
	if r, err := slot.ParseRecord(b); err != nil || r.Seq != 1 {
		t.Errorf("ParseRecord(newer half damaged) = %+v, %v, want sequence 1", r, err)
	}
	b[4096+20] ^= 1
	r, err := slot.ParseRecord(b)
	if !errors.Is(err, slot.ErrRecordDamaged) || !cmp.Equal(r, slot.Record{}) {
		t.Errorf("ParseRecord(both damaged) = %+v, %v, want ErrRecordDamaged", r, err)
	}
	if _, err := slot.ParseRecord(b[:100]); err == nil || errors.Is(err, slot.ErrRecordDamaged) {
		t.Errorf("ParseRecord(100 bytes) = %v, want an error about the size", err)
	}
	path := filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := slot.ReadRecord(path); !errors.Is(err, slot.ErrRecordDamaged) {
		t.Errorf("ReadRecord(both damaged) = %v, want ErrRecordDamaged", err)
	}
	if err := slot.WriteRecord(path, slot.Record{Last: slot.Result{Op: slot.OpCommit}}); err != nil {
		t.Fatalf("WriteRecord over damage: %v", err)
	}
	if r, err := slot.ReadRecord(path); err != nil || r.Last.Op != slot.OpCommit {
		t.Errorf("ReadRecord after WriteRecord over damage = %+v, %v", r, err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if err := slot.WriteRecord(path, slot.Record{}); err == nil {
		t.Error("WriteRecord to a short file succeeds, want an error")
	}
}

func TestMarshalRecordFits(t *testing.T) {
	r := slot.Record{Last: slot.Result{Reason: "line one\nline two\x1b[31m"}}
	for i := range 20 {
		r.Failed = append(r.Failed, slot.Failure{
			Image:  slot.Image{Version: fmt.Sprint(i), BuildID: strings.Repeat("b", 64)},
			Reason: strings.Repeat("\"\\ü", 500),
		})
	}
	half, _, err := slot.MarshalRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	b := append(half, make([]byte, slot.RecordSize-len(half))...)
	got, err := slot.ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Last.Reason != "line one line two [31m" {
		t.Errorf("reason = %q, want one printable line", got.Last.Reason)
	}
	if n := len(got.Failed); n < slot.MaxFailures-1 || got.Failed[n-1].Version != "19" {
		t.Errorf("%d failures kept, the last %+v; want the newest ones", n, got.Failed[n-1])
	}
	for _, f := range got.Failed {
		if len(f.Reason) > 160 || !strings.HasSuffix(f.Reason, "...") || strings.ContainsRune(f.Reason, '\ufffd') {
			t.Errorf("reason of %d bytes %q, want at most 160, cut between characters", len(f.Reason), f.Reason)
		}
	}
	if _, _, err := slot.MarshalRecord(slot.Record{Writing: &slot.Image{Version: strings.Repeat("v", 5000)}}); err == nil {
		t.Error("MarshalRecord of a version of 5000 bytes succeeds, want an error")
	}
}

func TestRefuses(t *testing.T) {
	r := slot.Record{Failed: []slot.Failure{
		{Image: slot.Image{Version: "1.0", BuildID: "x"}, Reason: "old"},
		{Image: slot.Image{Version: "1.0", BuildID: "y"}, Reason: "new"},
		{Image: slot.Image{Version: "2.0"}, Reason: "no build id"},
	}}
	for _, c := range []struct{ version, buildID, want string }{
		{"1.0", "x", "old"},
		{"1.0", "y", "new"},
		{"1.0", "z", ""},
		{"1.0", "", "new"},
		{"2.0", "z", "no build id"},
		{"3.0", "", ""},
		{"3.0", "x", "old"},
	} {
		got := ""
		if f := r.Refuses(c.version, c.buildID); f != nil {
			got = f.Reason
		}
		if got != c.want {
			t.Errorf("Refuses(%q, %q) = %q, want %q", c.version, c.buildID, got, c.want)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	seed := make([]byte, slot.RecordSize)
	f.Add(append([]byte(nil), seed...))
	for seq := uint64(1); seq < 3; seq++ {
		half, offset, err := slot.MarshalRecord(slot.Record{Seq: seq, Failed: []slot.Failure{{Image: image(1), Reason: "r"}}})
		if err != nil {
			f.Fatal(err)
		}
		copy(seed[offset:], half)
		f.Add(append([]byte(nil), seed...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := slot.ParseRecord(b)
		if err != nil && !cmp.Equal(r, slot.Record{}) {
			t.Errorf("ParseRecord = %+v along with %v, want the zero record", r, err)
		}
	})
}
