package origin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/klauspost/compress/zstd"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/origin/origintest"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

const (
	mib     = 1 << 20
	espSize = origintest.ESPSize
	devSize = origintest.DevSize
	start   = origintest.Start
)

func disk(t *testing.T, version string) []byte { return origintest.Disk(t, version) }

func packed(t *testing.T, b []byte, program ...string) []byte {
	t.Helper()
	tree := toolstreetest.Open(t)
	c := tree.Command(program...)
	c.Stdin = bytes.NewReader(b)
	out, err := command.Output(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// server is an origin.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string][]byte
	modified time.Time
	asked    []string
	// wrap, if set, answers instead.
	wrap func(w http.ResponseWriter, r *http.Request) bool
}

func newServer(t *testing.T) *server {
	s := &server{files: map[string][]byte{}, modified: time.Unix(1_700_000_000, 0)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
	b, ok := s.files[strings.TrimPrefix(r.URL.Path, "/")]
	modified, wrap := s.modified, s.wrap
	s.mu.Unlock()
	if wrap != nil && wrap(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(b)
	w.Header().Set("ETag", strconv.Quote(hex.EncodeToString(sum[:8])))
	http.ServeContent(w, r, "", modified, bytes.NewReader(b))
}

func (s *server) put(name string, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = b
}

func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.asked
	s.asked = nil
	return r
}

func newSite(t *testing.T) *Site {
	return &Site{Dir: filepath.Join(t.TempDir(), "os-images"), Wait: time.Millisecond}
}

// check compares the files of the copy with the disk they are of.
func check(t *testing.T, s *Site, name string, disk []byte) {
	t.Helper()
	sum := sha256.Sum256(disk)
	for suffix, want := range map[string][]byte{
		"": disk, ".firmware": disk[start : start+espSize], ".dev": disk[start+espSize : start+espSize+devSize],
		".sha": []byte(hex.EncodeToString(sum[:]) + "  " + name + "\n"),
	} {
		got, err := os.ReadFile(filepath.Join(s.Dir, name+suffix))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s%s: %d bytes, %v; want the %d of the image", name, suffix, len(got), err, len(want))
		}
		if info, err := os.Stat(filepath.Join(s.Dir, name+suffix)); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s%s: %v, %v; want it plain and readable", name, suffix, info, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir, ".work", name, "*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != "lock" {
		t.Errorf("left behind: %v, %v; want the lock alone", left, err)
	}
}

// TestUpdate brings an image here in each of its forms, asks again, and takes a new version.
func TestUpdate(t *testing.T) {
	one, two := disk(t, "1.0"), disk(t, "1.1")
	for ending, pack := range map[string]func([]byte) []byte{
		"":     func(b []byte) []byte { return b },
		".xz":  func(b []byte) []byte { return packed(t, b, "xz", "-c", "-1", "-T2", "--block-size=1MiB") },
		".zst": func(b []byte) []byte { return packed(t, b, "zstd", "-c", "-q") },
	} {
		t.Run("raw"+ending, func(t *testing.T) {
			origin, s := newServer(t), newSite(t)
			src := Source{Image: origin.URL + "/EOS.raw" + ending, Name: "EOS-copy.raw"}
			origin.put("EOS.raw"+ending, pack(one))
			st, changed, err := s.Update(t.Context(), src)
			if err != nil || !changed || st.Version != "1.0" || st.Size != int64(len(one)) || st.Error != "" {
				t.Fatalf("Update = %+v, %v, %v", st, changed, err)
			}
			check(t, s, src.Name, one)
			origin.requests()

			// Nothing new: one small request.
			st, changed, err = s.Update(t.Context(), src)
			if got := origin.requests(); err != nil || changed || len(got) != 1 || st.Version != "1.0" {
				t.Errorf("Update again = %+v, %v, %v after %q; want no change for one request", st, changed, err, got)
			}
			reader, err := os.Open(filepath.Join(s.Dir, src.Name+".dev"))
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()

			packedTwo := pack(two)
			sum := sha256.Sum256(packedTwo)
			origin.put("EOS.raw"+ending, packedTwo)
			origin.put("EOS.raw"+ending+".sha256", []byte(hex.EncodeToString(sum[:])+"  EOS.raw"+ending+"\n"))
			st, changed, err = s.Update(t.Context(), src)
			if err != nil || !changed || st.Version != "1.1" || len(st.Checks) != 1 {
				t.Errorf("Update to 1.1 = %+v, %v, %v", st, changed, err)
			}
			check(t, s, src.Name, two)
			if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, one[start+espSize:start+espSize+devSize]) {
				t.Errorf("a reader in flight got %d bytes, %v; want the old image", len(got), err)
			}
			list, err := s.Status()
			if err != nil || len(list) != 1 || list[0].SHA256 != st.SHA256 || list[0].Checked.IsZero() {
				t.Errorf("Status = %+v, %v", list, err)
			}
		})
	}
}

// TestSparse keeps holes: most of an image is nothing.
func TestSparse(t *testing.T) {
	origin, s := newServer(t), newSite(t)
	b := disk(t, "1")
	origin.put("EOS.raw", b)
	if _, _, err := s.Update(t.Context(), Source{Image: origin.URL + "/EOS.raw", Name: "EOS.raw"}); err != nil {
		t.Fatal(err)
	}
	c, err := command.Output(t.Context(), command.Cmd{Argv: []string{"du", "--block-size=1", filepath.Join(s.Dir, "EOS.raw")}})
	if err != nil {
		t.Fatal(err)
	}
	var used int
	if _, err := fmt.Sscan(string(c), &used); err != nil || used > len(b)/2 {
		t.Errorf("a disk of %d bytes, most of them zero, takes %d, %v", len(b), used, err)
	}
}

// TestBadOrigin: whatever comes, there is an error that says what, and the copy stays.
func TestBadOrigin(t *testing.T) {
	good := disk(t, "2.0")
	xz := packed(t, good, "xz", "-c", "-1")
	flipped := bytes.Clone(xz)
	flipped[len(flipped)/2] ^= 1
	noRoot := bytes.Clone(good)
	for _, at := range []int{1024 + 128 + 56, len(good) - 33*512 + 128 + 56} { // its name in both tables
		noRoot[at] = 'x'
	}
	badHeader := bytes.Clone(good)
	badHeader[512+72]++ // places of the table
	small, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(status int, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return true
		}
	}
	for _, c := range []struct {
		name string
		file []byte
		wrap func(http.ResponseWriter, *http.Request) bool
		sums string
		free int64
		want error
	}{
		{name: "page", file: []byte("<html>" + strings.Repeat("maintenance ", 1000)), want: ErrNotImage},
		{name: "empty", file: []byte{}, want: ErrOrigin},
		{name: "one byte", file: []byte{0}, want: ErrNotImage},
		{name: "zeros", file: make([]byte, mib), want: ErrNotImage},
		{name: "short", file: good[:len(good)-1], want: ErrNotImage},
		{name: "long", file: append(bytes.Clone(good), 0), want: ErrNotImage},
		{name: "short xz", file: xz[:len(xz)-100], want: ErrNotImage},
		{name: "flipped xz", file: flipped, want: ErrNotImage},
		{name: "compressed page", file: small.EncodeAll([]byte(strings.Repeat("<html>", 1000)), nil), want: ErrNotImage},
		{name: "no root partition", file: noRoot, want: ErrNotImage},
		{name: "damaged GPT", file: badHeader, want: ErrNotImage},
		{name: "older", file: disk(t, "0.9"), want: ErrOlder},
		{name: "checksum", file: good, sums: strings.Repeat("0", 64) + "  x\n", want: ErrChecksum},
		{name: "checksum page", file: good, sums: "<html>", want: ErrOrigin},
		{name: "checksum endless", file: good, sums: strings.Repeat("x", 100_000), want: ErrOrigin},
		{name: "gone", wrap: answer(404, ""), want: ErrOrigin},
		{name: "forbidden", wrap: answer(403, ""), want: ErrOrigin},
		{name: "broken", wrap: answer(500, ""), want: ErrOrigin},
		{name: "no content", wrap: answer(204, ""), want: ErrOrigin},
		{name: "not what was asked", wrap: answer(206, "x"), want: ErrOrigin},
		{name: "no room", file: good, free: 64 << 20, want: ErrSpace},
		{name: "no room to unpack", file: xz, free: 66 << 20, want: ErrSpace},
	} {
		t.Run(c.name, func(t *testing.T) {
			origin, s := newServer(t), newSite(t)
			s.Retries = 2
			src := Source{Image: origin.URL + "/EOS.raw", Name: "EOS.raw"}
			one := disk(t, "1.0")
			origin.put("EOS.raw", one)
			if _, _, err := s.Update(t.Context(), src); err != nil {
				t.Fatal(err)
			}
			origin.mu.Lock()
			origin.wrap = c.wrap
			origin.mu.Unlock()
			origin.put("EOS.raw", c.file)
			if c.sums != "" {
				origin.put("EOS.raw.sha256", []byte(c.sums))
			}
			if c.free != 0 {
				s.Free = func(string) (int64, error) { return c.free, nil }
			}
			st, changed, err := s.Update(t.Context(), src)
			if !errors.Is(err, c.want) || changed || st.Error == "" || st.Version != "1.0" {
				t.Errorf("Update = %+v, %v, %v; want %v", st, changed, err, c.want)
			}
			for suffix := range map[string]int{"": 0, ".dev": 0, ".firmware": 0, ".sha": 0} {
				if _, err := os.Stat(filepath.Join(s.Dir, src.Name+suffix)); err != nil {
					t.Error(err)
				}
			}
			if b, err := os.ReadFile(filepath.Join(s.Dir, src.Name)); err != nil || !bytes.Equal(b, one) {
				t.Errorf("the copy is another one: %v", err)
			}
			// It recovers by itself.
			origin.mu.Lock()
			origin.wrap = nil
			delete(origin.files, "EOS.raw.sha256")
			origin.mu.Unlock()
			s.Free = nil
			origin.put("EOS.raw", good)
			if st, changed, err := s.Update(t.Context(), src); err != nil || !changed || st.Error != "" {
				t.Errorf("Update afterwards = %+v, %v, %v", st, changed, err)
			}
			check(t, s, src.Name, good)
		})
	}
}

// TestResume goes on with a download that broke off, in the same process and in another one, but
// not if the origin has something else meanwhile.
func TestResume(t *testing.T) {
	one, two := disk(t, "1.0"), disk(t, "1.1")
	origin, s := newServer(t), newSite(t)
	src := Source{Image: origin.URL + "/EOS.raw", Name: "EOS.raw"}
	origin.put("EOS.raw", one)
	breaks := 3
	origin.wrap = func(w http.ResponseWriter, r *http.Request) bool {
		origin.mu.Lock()
		defer origin.mu.Unlock()
		if breaks == 0 || strings.HasSuffix(r.URL.Path, ".sha256") {
			return false
		}
		breaks--
		sum := sha256.Sum256(one)
		w.Header().Set("ETag", strconv.Quote(hex.EncodeToString(sum[:8])))
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(one)-1, len(one)))
			w.Header().Set("Content-Length", strconv.Itoa(len(one)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(one)))
		}
		_, _ = w.Write(one[from : from+mib])
		panic(http.ErrAbortHandler)
	}
	s.Retries = -1
	if _, _, err := s.Update(t.Context(), src); !errors.Is(err, ErrOrigin) {
		t.Fatalf("Update of a download that breaks off = %v, want %v", err, ErrOrigin)
	}
	origin.requests()
	again := &Site{Dir: s.Dir, Wait: time.Millisecond}
	if _, changed, err := again.Update(t.Context(), src); err != nil || !changed {
		t.Fatalf("Update that goes on = %v, %v", changed, err)
	}
	got := origin.requests()
	if want := fmt.Sprintf("/EOS.raw bytes=%d-", mib); got[0] != want || len(got) < 3 {
		t.Errorf("requests %q, want the first to be %q", got, want)
	}
	check(t, s, src.Name, one)

	// Half of two, then the origin has three.
	three := disk(t, "1.2")
	origin.put("EOS.raw", two)
	origin.mu.Lock()
	breaks = 1
	one = two
	origin.mu.Unlock()
	if _, _, err := s.Update(t.Context(), src); !errors.Is(err, ErrOrigin) {
		t.Fatalf("Update of a download that breaks off = %v, want %v", err, ErrOrigin)
	}
	origin.put("EOS.raw", three)
	if _, _, err := s.Update(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	check(t, s, src.Name, three)
}

func TestLocked(t *testing.T) {
	origin, s := newServer(t), newSite(t)
	src := Source{Image: origin.URL + "/EOS.raw", Name: "EOS.raw"}
	origin.put("EOS.raw", disk(t, "1"))
	waiting, release := make(chan bool), make(chan bool)
	var once sync.Once
	origin.wrap = func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { close(waiting); <-release })
		return false
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Update(context.WithoutCancel(t.Context()), src)
		done <- err
	}()
	<-waiting
	if _, _, err := (&Site{Dir: s.Dir}).Update(t.Context(), src); !errors.Is(err, ErrLocked) {
		t.Errorf("second Update = %v, want %v", err, ErrLocked)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSignature takes what the configured key has signed, in the ways that origins sign.
func TestSignature(t *testing.T) {
	entity, err := openpgp.NewEntity("origin", "", "origin@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := openpgp.NewEntity("stranger", "", "stranger@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	keyring := filepath.Join(t.TempDir(), "keyring.asc")
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(entity.Serialize(w), w.Close())
	}
	if err == nil {
		err = os.WriteFile(keyring, b.Bytes(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	sign := func(e *openpgp.Entity, text []byte) []byte {
		var b bytes.Buffer
		if err := openpgp.ArmoredDetachSign(&b, e, bytes.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	image := disk(t, "1")
	sum := sha256.Sum256(image)
	sums := []byte(hex.EncodeToString(sum[:]) + "  EOS.raw\n")
	for _, c := range []struct {
		name  string
		files map[string][]byte
		ok    bool
	}{
		{"of the checksum", map[string][]byte{".sha256": sums, ".sha256.asc": sign(entity, sums)}, true},
		{"of the image", map[string][]byte{".asc": sign(entity, image)}, true},
		{"none", nil, false},
		{"checksum without one", map[string][]byte{".sha256": sums}, false},
		{"of a stranger", map[string][]byte{".sha256": sums, ".sha256.asc": sign(stranger, sums)}, false},
		{"of something else", map[string][]byte{".asc": sign(entity, sums)}, false},
		{"no signature at all", map[string][]byte{".asc": []byte("<html>")}, false},
	} {
		origin, s := newServer(t), newSite(t)
		origin.put("EOS.raw", image)
		for suffix, b := range c.files {
			origin.put("EOS.raw"+suffix, b)
		}
		st, _, err := s.Update(t.Context(), Source{Image: origin.URL + "/EOS.raw", Name: "EOS.raw", Keyring: keyring})
		if c.ok && (err != nil || st.Checks[len(st.Checks)-1] != "signature") || !c.ok && !errors.Is(err, ErrChecksum) {
			t.Errorf("%s: %+v, %v; want ok %v", c.name, st, err, c.ok)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("os-update.yml", []byte(`---
update:
  - image: https://download.example.com/EOS.aarch64-RPI.raw.xz
    name: EOS.aarch64-RPI-ALP.raw
  - image: https://download.example.com/TW/EOS.aarch64-RPI.raw.xz
    name: EOS.aarch64-RPI-TW.raw
    keyring: /etc/origin.asc
server: https://updates.example.com/eos
limit_rate: 1MiB
mirror: https://updates.example.com/eos
`))
	if err != nil || len(c.Update) != 2 || c.Update[1].Name != "EOS.aarch64-RPI-TW.raw" || c.Update[1].Keyring != "/etc/origin.asc" ||
		c.Mirror != "https://updates.example.com/eos" {
		t.Errorf("ParseConfig = %+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"update:\n- image: https://h/x\n":                          "c:2: name is missing",
		"update:\n- name: x.raw\n":                                 "c:2: image is missing",
		"update:\n- image: ftp://h/x\n  name: x.raw\n":             "c:2: image \"ftp://h/x\"",
		"update:\n- image: https://h/x\n  name: ../x.raw\n":        "c:2: name \"../x.raw\"",
		"update:\n- image: https://h/x\n  name: x\n":               "c:2: name \"x\"",
		"update:\n- image: https://h/x\n  name: x.raw\n  nam: y\n": "c:4: unknown key \"nam\"",
		"update:\n- image: https://h/x\n  name: a+b.raw\n":         "c:2: name \"a+b.raw\"",
		"mirror: ftp://h/x\n":                                      "c:1: mirror \"ftp://h/x\"",
		"mirror: [x]\n":                                            "c:1: mirror",
		"server: x\nnam: y\n":                                      "c:2: field nam not found",
		"update:\n- x\n":                                           "c:2: want the keys image and name",
		"updates: []\n":                                            "c:1: field updates not found",
		"update: x\n":                                              "c:1: cannot unmarshal",
		"update: []\n---\nupdate: []\n":                            "more than one",
		"update:\n- {image: https://h/x, name: x.raw}\n- {image: https://h/y, name: x.raw}\n": "c:3: name x.raw is taken in line 2",
		"{": "c",
	} {
		if _, err := ParseConfig("c", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) && !strings.Contains(err.Error(), want) {
			t.Errorf("ParseConfig(%q) = %v, want %q", text, err, want)
		}
	}
	if c, err := ParseConfig("c", nil); err != nil || len(c.Update) != 0 {
		t.Errorf("ParseConfig(nothing) = %v, %v", c, err)
	}
}
