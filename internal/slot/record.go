package slot

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"unicode"

	"github.com/OSInside/eos/internal/bootstate"
)

// RecordSize is the size of the file EFI/eos/record: two halves, written in turn.
const (
	RecordSize = 2 * halfSize
	halfSize   = 4096
)

// MaxFailures is how many failed versions are remembered; the oldest is forgotten first.
const MaxFailures = 8

// maxReason is how many bytes of a reason are kept.
const maxReason = 160

// Image names the image in a slot, as its verified manifest does.
type Image struct {
	Version string `json:"version"`
	BuildID string `json:"build_id"`
}

// Failure is a version that is not to be tried again by itself.
type Failure struct {
	Image
	Reason string `json:"reason"`
	Time   int64  `json:"time"` // Unix seconds
}

// Result is what the last operation came to.
type Result struct {
	Op      string `json:"op"`      // one of the Op constants
	Outcome string `json:"outcome"` // one of the Outcome constants
	Reason  string `json:"reason,omitempty"`
	Version string `json:"version,omitempty"`
	Time    int64  `json:"time"` // Unix seconds
}

// Operations and outcomes in a [Result].
const (
	OpApply       = "apply"
	OpTrial       = "trial"
	OpTrialFailed = "trial-failed"
	OpCommit      = "commit"
	OpRollback    = "rollback"
	OpBoot        = "boot"

	OutcomeStarted = "started"
	OutcomeOK      = "ok"
	OutcomeFailed  = "failed"
)

// Attempt is a trial that has begun and not ended.
type Attempt struct {
	Image
	// BootID is the kernel's boot id of the system that began the trial: while it is
	// still the current one, the jump has not happened yet.
	BootID     string `json:"boot_id"`
	Activation string `json:"activation"`
	Time       int64  `json:"time"`
	// Server is the repository the image came from.
	Server string `json:"server,omitempty"`
}

// Floors are the lowest repository metadata versions this device still accepts.
type Floors struct {
	Root      int64 `json:"root"`
	Timestamp int64 `json:"timestamp"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
}

// Record is the device's memory beyond the boot state. Losing it costs history,
// never a bootable slot.
type Record struct {
	Seq     uint64    `json:"seq"`
	Failed  []Failure `json:"failed,omitempty"` // oldest first
	Last    Result    `json:"last"`
	Floors  Floors    `json:"floors"`
	Writing *Image    `json:"writing,omitempty"` // what the other slot is being filled with
	Trial   *Attempt  `json:"trial,omitempty"`
	// ProvenA and ProvenB are the images that were committed in each slot. The boot
	// state is what counts; these are for rebuilding a boot state that was lost.
	ProvenA *Image `json:"proven_a,omitempty"`
	ProvenB *Image `json:"proven_b,omitempty"`
}

// Refuses returns the remembered failure of an image, nil if there is none. Images
// are told apart by build id; by version where one side has no build id.
func (r Record) Refuses(version, buildID string) *Failure {
	for i := len(r.Failed) - 1; i >= 0; i-- {
		f := r.Failed[i]
		if f.BuildID == buildID && buildID != "" || (f.BuildID == "" || buildID == "") && f.Version == version {
			return &f
		}
	}
	return nil
}

// withFailure returns r remembering f as the newest failure, in place of an older
// one of the same image.
func (r Record) withFailure(f Failure) Record {
	r = r.withoutFailure(f.Image)
	r.Failed = append(r.Failed, f)
	if n := len(r.Failed); n > MaxFailures {
		r.Failed = r.Failed[n-MaxFailures:]
	}
	return r
}

func (r Record) withoutFailure(img Image) Record {
	r.Failed = slices.DeleteFunc(slices.Clone(r.Failed), func(f Failure) bool {
		return Record{Failed: []Failure{f}}.Refuses(img.Version, img.BuildID) != nil
	})
	return r
}

func (r Record) proven(x bootstate.Slot) *Image {
	if x == bootstate.A {
		return r.ProvenA
	}
	return r.ProvenB
}

func (r Record) withProven(x bootstate.Slot, img *Image) Record {
	if x == bootstate.A {
		r.ProvenA = img
	} else {
		r.ProvenB = img
	}
	return r
}

// Half layout: magic, u32le length of the JSON, u32le CRC32 of the JSON, the JSON, zeros.
var recordMagic = []byte("EOSREC1\n")

const halfHeader = 16

// ErrRecordDamaged: neither half of a record can be read.
var ErrRecordDamaged = errors.New("both halves are damaged")

// ParseRecord reads a whole record file: the newer of the two halves that are
// intact. A file of zeros is a device without a past. If both halves are damaged it
// returns the zero Record and an error that wraps [ErrRecordDamaged]; the device
// works on without its history.
func ParseRecord(b []byte) (Record, error) {
	if len(b) != RecordSize {
		return Record{}, fmt.Errorf("parse device record: %d bytes, want %d", len(b), RecordSize)
	}
	var newest Record
	var causes []string
	found := false
	for half := 0; half < 2; half++ {
		r, err := parseHalf(b[half*halfSize:][:halfSize], half)
		switch {
		case err != nil:
			causes = append(causes, err.Error())
		case r != nil && (!found || r.Seq > newest.Seq):
			newest, found = *r, true
		}
	}
	if !found && len(causes) > 0 {
		// One half of zeros beside a damaged one is a cut in the very first write.
		if len(causes) == 1 {
			return Record{}, nil
		}
		return Record{}, fmt.Errorf("parse device record: %w: %s", ErrRecordDamaged, strings.Join(causes, "; "))
	}
	return newest, nil
}

// parseHalf returns nil and no error for a half that was never written.
func parseHalf(b []byte, half int) (*Record, error) {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return nil, nil
	}
	if !bytes.HasPrefix(b, recordMagic) {
		return nil, fmt.Errorf("half %d: no magic", half)
	}
	n := binary.LittleEndian.Uint32(b[8:])
	sum := binary.LittleEndian.Uint32(b[12:])
	if n > halfSize-halfHeader {
		return nil, fmt.Errorf("half %d: length %d is too large", half, n)
	}
	body := b[halfHeader:][:n]
	if crc32.ChecksumIEEE(body) != sum {
		return nil, fmt.Errorf("half %d: wrong checksum", half)
	}
	var r Record
	// Unknown fields are let pass: an older system must still read a newer record.
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("half %d: %w", half, err)
	}
	if int(r.Seq%2) != half {
		return nil, fmt.Errorf("half %d: holds sequence number %d", half, r.Seq)
	}
	return &r, nil
}

// MarshalRecord returns the half that r is stored in, and its offset in the file.
// Reasons are cut to one short line and the oldest failures dropped until r fits.
func MarshalRecord(r Record) (half []byte, offset int64, err error) {
	r = tidy(r)
	for {
		body, err := encode(r)
		if err != nil {
			return nil, 0, fmt.Errorf("marshal device record: %w", err)
		}
		if len(body) <= halfSize-halfHeader {
			half = make([]byte, halfSize)
			copy(half, recordMagic)
			binary.LittleEndian.PutUint32(half[8:], uint32(len(body)))
			binary.LittleEndian.PutUint32(half[12:], crc32.ChecksumIEEE(body))
			copy(half[halfHeader:], body)
			return half, int64(r.Seq%2) * halfSize, nil
		}
		if len(r.Failed) == 0 {
			return nil, 0, fmt.Errorf("marshal device record: %d bytes do not fit into %d", len(body), halfSize-halfHeader)
		}
		r.Failed = r.Failed[1:]
	}
}

// tidy returns r with its reasons as they are stored.
func tidy(r Record) Record {
	r.Failed = slices.Clone(r.Failed)
	for i := range r.Failed {
		r.Failed[i].Reason = oneLine(r.Failed[i].Reason)
	}
	r.Last.Reason = oneLine(r.Last.Reason)
	return r
}

func encode(r Record) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// oneLine makes a reason safe to store and to print: one line of printable text.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool {
		return unicode.IsSpace(c) || !unicode.IsPrint(c)
	}), " ")
	if len(s) <= maxReason {
		return s
	}
	cut := maxReason - len("...")
	for cut > 0 && s[cut]&0xc0 == 0x80 { // not inside a character
		cut--
	}
	return s[:cut] + "..."
}
