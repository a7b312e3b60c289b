package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/cli"
)

// device makes one with a registry and without keys.
func device(t testing.TB) *Device {
	t.Helper()
	root := t.TempDir()
	d := &Device{
		State: root + "/state/fleet", Shared: root + "/id_shared", Key: root + "/id_fleet", Registry: root + "/registry.json",
		MachineID: root + "/machine-id", Build: root + "/build.json", Boot: root + "/boot.json",
		Release: root + "/os-release", HostKey: root + "/host.pub",
	}
	put(t, d.Registry, `{"state": "ok"}`)
	put(t, d.MachineID, "0123456789abcdef0123456789abcdef\n")
	put(t, d.Build, `{"name": "eos", "class": "generic-x86_64", "arch": "amd64", "version": "1.0"}`)
	return d
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// share gives the device a key of the image and returns its fingerprint.
func share(t testing.TB, d *Device) string {
	t.Helper()
	k, err := newKey("shared")
	if err != nil {
		t.Fatal(err)
	}
	put(t, d.Shared, string(k.private))
	return k.Fingerprint()
}

func codeOf(err error) cli.Code {
	var e *cli.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return cli.Failure
}

func TestGetKey(t *testing.T) {
	d := device(t)
	if _, err := d.GetKey(t.Context()); codeOf(err) != cli.Nothing || !strings.Contains(err.Error(), "its image came without one") {
		t.Errorf("GetKey without keys = %v, want code %d", err, cli.Nothing)
	}
	if _, err := os.Stat(d.Key); err == nil {
		t.Error("GetKey without keys made a file")
	}

	shared := share(t, d)
	check := func(source, fingerprint, problem string) {
		t.Helper()
		got, err := d.GetKey(t.Context())
		if err != nil || got.Source != source || got.Fingerprint != fingerprint || !strings.Contains(got.Problem, problem) || (problem == "") != (got.Problem == "") {
			t.Fatalf("GetKey = %+v, %v, want %s %s, problem %q", got, err, source, fingerprint, problem)
		}
		k, err := LoadKey(d.Key)
		if err != nil || k.Fingerprint() != fingerprint {
			t.Errorf("the file has the key %v, %v, want %s", k, err, fingerprint)
		}
		if st, err := os.Stat(d.Key); err != nil || st.Mode() != 0o600 {
			t.Errorf("the file has the mode %v, %v, want 0600", st.Mode(), err)
		}
	}
	check(SourceImage, shared, "")

	own, err := d.Enroll(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if own.Fingerprint == shared {
		t.Error("the device's own key is the shared one")
	}
	check(SourceDevice, own.Fingerprint, "")

	put(t, d.State+"/"+ownFile, "damaged")
	check(SourceImage, shared, "not an ssh private key")
	if err := os.Remove(d.Shared); err != nil {
		t.Fatal(err)
	}
	if _, err := d.GetKey(t.Context()); err == nil || !strings.Contains(err.Error(), ownFile+": it is not an ssh private key") {
		t.Errorf("GetKey with a damaged key alone = %v", err)
	}
	put(t, d.Shared, "damaged")
	if _, err := d.GetKey(t.Context()); err == nil || !strings.Contains(err.Error(), d.Shared) {
		t.Errorf("GetKey with two damaged keys = %v, want the image's named", err)
	}
}

func TestEnroll(t *testing.T) {
	d := device(t)
	first, err := d.Enroll(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	public, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(first.AuthorizedKey))
	if err != nil || len(rest) > 0 {
		t.Fatalf("the server's line %q: %v", first.AuthorizedKey, err)
	}
	if diff := cmp.Diff([]string{`command="/usr/bin/os-update-restricted"`, "restrict"}, options); diff != "" {
		t.Errorf("options of the line (-want +got):\n%s", diff)
	}
	if got := ssh.FingerprintSHA256(public); got != first.Fingerprint || comment != "eos-0123456789abcdef0123456789abcdef" {
		t.Errorf("the line is of %s %q, want %s", got, comment, first.Fingerprint)
	}
	if st, err := os.Stat(d.State); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v, want mode 0700", st.Mode(), err)
	}
	if st, err := os.Stat(d.State + "/" + ownFile); err != nil || st.Mode() != 0o600 {
		t.Errorf("key: %v, %v, want mode 0600", st.Mode(), err)
	}
	again, err := d.Enroll(t.Context(), Options{})
	if err != nil || again.Made || again.AuthorizedKey != first.AuthorizedKey {
		t.Errorf("Enroll again = %+v, %v, want the same key", again, err)
	}
	other, err := d.Enroll(t.Context(), Options{New: true})
	if err != nil || !other.Made || other.Fingerprint == first.Fingerprint {
		t.Errorf("Enroll of a new one = %+v, %v, want another", other, err)
	}
	put(t, d.State+"/"+ownFile, "damaged")
	if _, err := d.Enroll(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "not an ssh private key") {
		t.Errorf("Enroll with a damaged key = %v, want it named", err)
	}
	if _, err := d.Enroll(t.Context(), Options{New: true}); err != nil {
		t.Errorf("Enroll of a new one over a damaged one = %v", err)
	}
}

// A key that the next restart loses is made only for those who say so.
func TestEnrollWithoutARegistry(t *testing.T) {
	for name, spoil := range map[string]func(*Device){
		"no state": func(d *Device) { os.Remove(d.Registry) },
		"degraded": func(d *Device) { put(t, d.Registry, `{"state": "degraded", "problem": "no TPM"}`) },
		"memory":   func(d *Device) { d.volatile = func(string) bool { return true } },
	} {
		d := device(t)
		spoil(d)
		_, err := d.Enroll(t.Context(), Options{})
		if codeOf(err) != cli.Degraded || !strings.Contains(err.Error(), "the next restart would lose it") {
			t.Errorf("%s: Enroll = %v, want that it is refused", name, err)
		}
		if _, err := os.Stat(d.State); err == nil {
			t.Errorf("%s: Enroll that was refused made %s", name, d.State)
		}
		res, err := d.Enroll(t.Context(), Options{Transient: true})
		if err != nil || !res.Transient {
			t.Errorf("%s: Enroll for this boot = %+v, %v", name, res, err)
		}
	}
	if !inMemory("/dev/shm/no/such/folder") {
		t.Error("inMemory(/dev/shm/...) = false")
	}
	if inMemory("/proc") {
		t.Error("inMemory(/proc) = true")
	}
}

// Runs at the same time make one key and tell all of them of it.
func TestEnrollAtTheSameTime(t *testing.T) {
	d := device(t)
	var wg sync.WaitGroup
	found := make([]string, 8)
	for i := range found {
		wg.Go(func() {
			res, err := d.Enroll(t.Context(), Options{})
			if err != nil {
				t.Errorf("Enroll: %v", err)
				return
			}
			found[i] = res.Fingerprint
		})
	}
	wg.Wait()
	for _, f := range found {
		if f != found[0] {
			t.Errorf("two keys were told of: %v", found)
		}
	}
}

var errCut = errors.New("power cut")

// Wherever it is cut, the device has the old key or a whole new one, and a key that was told
// of is there. Doing it again works, and nothing is left behind.
func TestCuts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := device(t)
		shared := share(t, d)
		told := ""
		for range rapid.IntRange(1, 6).Draw(rt, "runs") {
			left := rapid.IntRange(0, 14).Draw(rt, "steps until the cut")
			d.fault = func(string) error {
				if left--; left < 0 {
					return errCut
				}
				return nil
			}
			before := told
			res, err := d.Enroll(t.Context(), Options{New: rapid.Bool().Draw(rt, "new")})
			if err == nil {
				told = res.Fingerprint
			}
			_, getErr := d.GetKey(t.Context())
			d.fault = nil
			if err != nil && !errors.Is(err, errCut) || getErr != nil && !errors.Is(getErr, errCut) {
				rt.Fatalf("Enroll: %v, GetKey: %v", err, getErr)
			}
			got, err := d.GetKey(t.Context())
			if err != nil {
				rt.Fatalf("GetKey after a cut: %v", err)
			}
			if told != "" && told != before && got.Fingerprint != told {
				rt.Fatalf("GetKey = %+v, want %s, which a server may know", got, told)
			}
			if told == "" && got.Source == SourceImage && got.Fingerprint != shared {
				rt.Fatalf("GetKey = %+v, want %s", got, shared)
			}
		}
		if _, err := d.Enroll(t.Context(), Options{}); err != nil {
			rt.Fatalf("Enroll after cuts: %v", err)
		}
		left, err := os.ReadDir(d.State)
		if err != nil || len(left) != 1 {
			rt.Fatalf("the folder has %v, %v, want the key alone", left, err)
		}
	})
}

// What a cut of the power leaves is removed by the next run: there the program had no time to.
func TestLeftovers(t *testing.T) {
	d := device(t)
	if err := os.MkdirAll(d.State, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, d.State+"/."+ownFile+".new-123", "half a k")
	if _, err := d.Enroll(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(d.State)
	if err != nil || len(left) != 1 || left[0].Name() != ownFile {
		t.Errorf("the folder has %v, %v, want the key alone", left, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.GetKey(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("GetKey that was interrupted = %v", err)
	}
}

// The private key is in no output, whatever prints it.
func TestNothingIsSecret(t *testing.T) {
	d := device(t)
	res, err := d.Enroll(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := LoadKey(d.State + "/" + ownFile)
	if err != nil {
		t.Fatal(err)
	}
	placed, err := d.GetKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal([]any{res, placed, k})
	if err != nil {
		t.Fatal(err)
	}
	all := string(out) + res.Text() + fmt.Sprintf("%v %+v %#v %s", k, k, k, k)
	secret := strings.Split(string(k.private), "\n")
	for _, line := range secret[2 : len(secret)-2] { // the first has the public key
		if strings.Contains(all, line) {
			t.Errorf("output has the line %q of the private key", line)
		}
	}
	if strings.Contains(all, "PRIVATE KEY") {
		t.Errorf("output has a private key: %s", all)
	}
}

func TestParseKey(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(block)
	k, err := ParseKey([]byte(strings.TrimSpace(string(text)) + "\r\n\r\n"))
	if err != nil || string(k.Private()) != string(text) {
		t.Errorf("ParseKey with another end = %v, %v, want one line break there", k, err)
	}
	for text, want := range map[string]string{
		"":                                    "not an ssh private key",
		"ssh-ed25519 AAAA":                    "it is a public key",
		string(pem.EncodeToMemory(locked)):    "passphrase",
		string(text[:len(text)/2]):            "not an ssh private key",
		strings.Repeat("A very long line", 9): "not an ssh private key",
	} {
		if _, err := ParseKey([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseKey(%.20q) = %v, want %q", text, err, want)
		}
	}
	big := filepath.Join(t.TempDir(), "big")
	put(t, big, strings.Repeat("x", maxKey+1))
	if _, err := LoadKey(big); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("LoadKey of a large file = %v", err)
	}
}
