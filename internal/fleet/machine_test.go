package fleet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

func TestMachine(t *testing.T) {
	d := device(t)
	host, err := newKey("")
	if err != nil {
		t.Fatal(err)
	}
	put(t, d.HostKey, host.Public()+"\n")
	put(t, d.Boot, `{"version": "1.1", "build_id": "abc", "slot": "a"}`)
	want := Machine{
		ID: "0123456789abcdef0123456789abcdef", Image: "eos", Class: "generic-x86_64", Arch: "amd64",
		Version: "1.1", BuildID: "abc", HostKey: host.Fingerprint(),
	}
	if diff := cmp.Diff(want, d.Machine()); diff != "" {
		t.Errorf("Machine (-want +got):\n%s", diff)
	}
	// A system without our files still has a name.
	put(t, d.Build, "")
	put(t, d.Boot, "null")
	put(t, d.HostKey, "none")
	put(t, d.Release, "ID=debian\nIMAGE_ID=\"other\"\nIMAGE_VERSION=3\n")
	if diff := cmp.Diff(Machine{ID: want.ID, Image: "other", Version: "3"}, d.Machine()); diff != "" {
		t.Errorf("Machine of another system (-want +got):\n%s", diff)
	}
	if got := new(Device).Machine(); got != (Machine{}) {
		t.Errorf("Machine of nothing = %+v", got)
	}
}

// Whatever the files of a device say, its line is one line with our options before it.
func FuzzText(f *testing.F) {
	f.Add("eos", "0123", "1.0", "generic")
	f.Add("a\nssh-ed25519 AAAA", "\"\r\n\x00", "\n", "é\u2028")
	k, err := newKey("")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, image, id, version, class string) {
		m := Machine{ID: id, Image: image, Version: version, Class: class}
		e := Enrolment{AuthorizedKey: forced + " " + k.Public() + " " + m.name(), Fingerprint: k.Fingerprint(), Machine: m}
		lines := strings.Split(e.Text(), "\n")
		if len(lines) != 3 || lines[2] != "" || !strings.HasPrefix(lines[0], "# ") {
			t.Fatalf("Text = %q, want a comment and a line", lines)
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(e.Text()))
		if err != nil || ssh.FingerprintSHA256(key) != k.Fingerprint() || len(options) != 2 {
			t.Fatalf("the line %q is of %v with %q, %v", lines[1], key, options, err)
		}
	})
}
