package slotimage_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/squashfs"
	"github.com/OSInside/eos/internal/verity"
)

// The vectors are files of a header, an empty line and rows of an offset and
// bytes, both hexadecimal; what no row covers is zero:
//
//	expect: bad-signature
//	about: one bit of the signature is flipped
//	kind: block
//	size: 4096
//	key: <public key that the reader accepts>
//
//	0000 454f53534c4f5431...
//
// Kind block is for ParseBlock and Verify, kind image for Read and Verify of
// the whole. Other implementations may use them.
type vector struct {
	name, expect, about, kind string
	keys                      []ed25519.PublicKey
	bytes                     []byte
}

const (
	vectorDir = "../../test/vectors/manifest"
	vectorRow = 32
)

// outcomes are the words of the expect line.
var outcomes = map[string]error{
	"ok":                 nil,
	"empty":              slotimage.ErrEmpty,
	"damaged-filesystem": squashfs.ErrInvalid,
	"no-manifest":        slotimage.ErrNoManifest,
	"version":            slotimage.ErrVersion,
	"format":             slotimage.ErrFormat,
	"unsigned":           slotimage.ErrUnsigned,
	"unknown-key":        slotimage.ErrUnknownKey,
	"bad-signature":      slotimage.ErrBadSignature,
	"mismatch":           slotimage.ErrMismatch,
	"too-large":          slotimage.ErrTooLarge,
	"corrupt":            errCorrupt,
}

var errCorrupt = errors.New("corrupt")

func (v vector) marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "expect: %s\nabout: %s\nkind: %s\nsize: %d\n", v.expect, v.about, v.kind, len(v.bytes))
	for _, k := range v.keys {
		fmt.Fprintf(&b, "key: %x\n", []byte(k))
	}
	b.WriteByte('\n')
	at := 0
	for row := range slices.Chunk(v.bytes, vectorRow) {
		if len(bytes.Trim(row, "\x00")) > 0 {
			fmt.Fprintf(&b, "%04x %x\n", at, row)
		}
		at += len(row)
	}
	return b.Bytes()
}

func parseVector(name string, text []byte) (vector, error) {
	v := vector{name: name}
	header, rows, ok := strings.Cut(string(text), "\n\n")
	if !ok {
		return v, errors.New("no empty line")
	}
	for line := range strings.Lines(header) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "expect":
			v.expect = value
		case "about":
			v.about = value
		case "kind":
			v.kind = value
		case "size":
			n, err := strconv.Atoi(value)
			if err != nil {
				return v, err
			}
			v.bytes = make([]byte, n)
		case "key":
			k, err := hex.DecodeString(value)
			if err != nil {
				return v, err
			}
			v.keys = append(v.keys, k)
		default:
			return v, fmt.Errorf("unknown field %q", field)
		}
	}
	for line := range strings.Lines(rows) {
		var at int
		var row []byte
		if _, err := fmt.Sscanf(line, "%x %x\n", &at, &row); err != nil {
			return v, err
		}
		if at+len(row) > len(v.bytes) {
			return v, fmt.Errorf("row at %x is outside", at)
		}
		copy(v.bytes[at:], row)
	}
	return v, nil
}

// outcome runs the code under test.
func (v vector) outcome(ctx context.Context) error {
	if v.kind == "block" {
		b, err := slotimage.ParseBlock(v.bytes)
		if err != nil {
			return err
		}
		_, err = b.Verify(v.keys)
		return err
	}
	r := bytes.NewReader(v.bytes)
	m, err := slotimage.Read(r, r.Size(), v.keys)
	if err != nil {
		return err
	}
	err = slotimage.Verify(ctx, r, m, nil)
	var corrupt *verity.CorruptError
	if errors.As(err, &corrupt) {
		return errCorrupt
	}
	return err
}

func TestVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.txt"))
	if err != nil || len(files) < 30 {
		t.Fatalf("found %d vectors in %s (%v), want at least 30", len(files), vectorDir, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v, err := parseVector(name, text)
			if err != nil {
				t.Fatal(err)
			}
			want, known := outcomes[v.expect]
			if !known || v.kind != "block" && v.kind != "image" {
				t.Fatalf("unknown outcome %q or kind %q", v.expect, v.kind)
			}
			got := v.outcome(t.Context())
			if !errors.Is(got, want) || want == nil && got != nil {
				t.Errorf("%s: outcome = %v, want %v", v.about, got, v.expect)
			}
			for word, other := range outcomes {
				if word != v.expect && other != nil && errors.Is(got, other) {
					t.Errorf("%s: outcome %v is %s as well as %s", v.about, got, word, v.expect)
				}
			}
		})
	}
}

var update = flag.Bool("update", false, "write the test vectors anew")

// TestVectorsAreGenerated keeps the committed files and the code that makes
// them the same.
func TestVectorsAreGenerated(t *testing.T) {
	want := map[string]string{}
	for _, v := range makeVectors(t) {
		if _, twice := want[v.name+".txt"]; twice {
			t.Errorf("vector %s is made twice", v.name)
		}
		want[v.name+".txt"] = string(v.marshal())
	}
	if *update {
		if err := os.MkdirAll(vectorDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(vectorDir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(vectorDir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(vectorDir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files in %s differ from makeVectors (-want +got); go test -update writes them:\n%s", vectorDir, diff)
	}
}
