package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/registry/head"
	"github.com/OSInside/eos/internal/registrystate"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// Folders of users are made once, with the owner and mode that the image says.
func TestMakeHomes(t *testing.T) {
	toolstreetest.NeedRoot(t)
	image, homes := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(image+"/app", 0o700), os.Chmod(image+"/app", 0o750), os.Chown(image+"/app", 1234, 1235),
		os.WriteFile(image+"/file", nil, 0o644), os.Mkdir(image+"/old", 0o755), os.Mkdir(homes+"/old", 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := makeHomes(homes, image); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"app": "drwxr-x--- 1234 1235", "old": "drwx------ 0 0"} {
		st, err := os.Stat(homes + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		if got := fmt.Sprint(st.Mode(), " ", sys.Uid, " ", sys.Gid); got != want {
			t.Errorf("folder of %s: %s, want %s", name, got, want)
		}
	}
	if _, err := os.Stat(homes + "/file"); err == nil {
		t.Error("a file became a folder")
	}
}

// TestDecide goes through all facts there can be. What must hold whatever they are: only the builder's
// mark leads to a new registry, and who is left without one is told why and what to do.
func TestDecide(t *testing.T) {
	kinds := []head.Kind{head.Unknown, head.Blank, head.LUKS, head.Plain, head.Empty}
	made := 0
	for _, policy := range []string{PolicyTPM2, PolicyKeyfile, PolicyNone} {
		for _, kind := range kinds {
			for bits := range 16 {
				f := Facts{Policy: policy, Kind: kind, Partition: bits&1 != 0, TPM: bits&2 != 0, Copy: bits&4 != 0, Size: MinSize - 1}
				if bits&8 != 0 {
					f.Size = MinSize
				}
				action, trouble := Decide(f)
				if (action == Leave) != (trouble != nil) {
					t.Fatalf("%+v: action %d, trouble %v", f, action, trouble)
				}
				if trouble != nil && (trouble.Problem == "" || trouble.ToDo == "") {
					t.Errorf("%+v: trouble %+v", f, trouble)
				}
				if action == Make {
					made++
					if kind != head.Blank || !f.Partition || f.Size < MinSize || policy == PolicyTPM2 && !f.TPM {
						t.Errorf("%+v: a registry is made", f)
					}
				}
				if f.Partition && kind == head.LUKS && action != Unlock {
					t.Errorf("%+v: action %d, want it unlocked", f, action)
				}
				if action == Mount && policy != PolicyNone {
					t.Errorf("%+v: mounted without encryption", f)
				}
			}
		}
	}
	if made == 0 {
		t.Error("no registry was ever made")
	}
}

func TestNote(t *testing.T) {
	n := Note{Worked: true, Active: "3495aa1c-bf24-42f6-a421-351d7c1363a5"}
	b, err := n.Marshal()
	if err != nil || len(b) != sector {
		t.Fatalf("Marshal: %d bytes, %v", len(b), err)
	}
	if got, err := ParseNote(b); err != nil || got != n {
		t.Errorf("ParseNote = %+v, %v", got, err)
	}
	if got, err := ParseNote(make([]byte, sector)); err != nil || got != (Note{}) {
		t.Errorf("ParseNote of zeros = %+v, %v", got, err)
	}
	for off := range 40 {
		bad := bytes.Clone(b)
		bad[off] ^= 1
		if _, err := ParseNote(bad); !errors.Is(err, errNoNote) {
			t.Errorf("ParseNote with a bit flipped at %d: %v", off, err)
		}
	}
	if _, err := (Note{Active: strings.Repeat("x", 600)}).Marshal(); err == nil {
		t.Error("Marshal of a long note: no error")
	}
}

func FuzzParseNote(f *testing.F) {
	b, err := Note{Worked: true, Active: "x"}.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(make([]byte, sector))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNote(b)
		if err != nil {
			return
		}
		if again, err := n.Marshal(); err == nil {
			if got, err := ParseNote(again); err != nil || got != n {
				t.Errorf("%+v becomes %+v, %v", n, got, err)
			}
		}
	})
}

// Other programs read the state through package registrystate.
func TestStateIsRead(t *testing.T) {
	for _, st := range []Status{{State: StateOK}, {State: StateDegraded, Problem: "why"}} {
		b, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if got := registrystate.Parse(b); got.OK != (st.State == StateOK) || got.Reason != st.Problem {
			t.Errorf("registrystate.Parse(%s) = %+v", b, got)
		}
	}
	if registrystate.File != StateFile {
		t.Errorf("registrystate reads %s, registry writes %s", registrystate.File, StateFile)
	}
}

func TestSlotKinds(t *testing.T) {
	for text, want := range map[string]string{
		`{"keyslots":{"0":{},"1":{}},"tokens":{"0":{"type":"systemd-tpm2","keyslots":["1"]}}}`:                                                      "key tpm2",
		`{"keyslots":{"1":{},"2":{}},"tokens":{"0":{"type":"systemd-tpm2","keyslots":["1"]},"1":{"type":"systemd-recovery","keyslots":["2"]}}}`:     "recovery tpm2",
		`{"keyslots":{"1":{},"2":{}},"tokens":{"0":{"type":"systemd-recovery","keyslots":["1"]},"1":{"type":"systemd-recovery","keyslots":["2"]}}}`: "recovery",
		`{}`: "",
	} {
		if got, err := slotKinds([]byte(text)); err != nil || strings.Join(got, " ") != want {
			t.Errorf("slotKinds(%s) = %v, %v, want %s", text, got, err, want)
		}
	}
	if _, err := slotKinds([]byte("[]")); err == nil {
		t.Error("slotKinds of a list: no error")
	}
}

func TestTargetRefuse(t *testing.T) {
	good := target{device: "/dev/sdx", size: MinSize}
	if err := good.refuse(); err != nil {
		t.Error(err)
	}
	for words, change := range map[string]func(*target){
		"the system itself":     func(x *target) { x.system = true },
		"mounted or mapped":     func(x *target) { x.busy = true },
		"--wipe /dev/sdx names": func(x *target) { x.registry = true },
		"a registry takes":      func(x *target) { x.size-- },
	} {
		bad := good
		change(&bad)
		if err := bad.refuse(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", bad, err, words)
		}
	}
	named := good
	named.registry, named.wipe = true, true
	if err := named.refuse(); err != nil {
		t.Error(err)
	}
}

func TestLockedOut(t *testing.T) {
	failed := &command.Error{StderrTail: "first\nthe last line\n"}
	for _, c := range []struct {
		policy      string
		tpm, header bool
		err         error
		words, hint string
	}{
		{PolicyTPM2, true, false, failed, "header", "--restore-header"},
		{PolicyTPM2, false, true, failed, "shows none", "firmware"},
		{PolicyTPM2, true, true, failed, "another TPM, or the state of Secure Boot has changed (the last line)", "--reseal"},
		{PolicyKeyfile, true, true, errNoKey, "lost", "--unlock"},
		{PolicyKeyfile, true, true, failed, "the last line", "--unlock"},
	} {
		got := lockedOut(c.policy, c.tpm, c.header, c.err)
		if !strings.Contains(got.Problem, c.words) || !strings.Contains(got.Hint(), c.hint) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

// Keys are never in an argument: they come from a file without a name.
func TestCommands(t *testing.T) {
	for _, argv := range [][]string{luksFormat("/run/head", "/dev/x"), sealCommand("/dev/x", "password")} {
		if !slices.ContainsFunc(argv, func(a string) bool { return strings.HasSuffix(a, secretPath) }) {
			t.Errorf("%q reads no key from %s", argv, secretPath)
		}
	}
	argv := strings.Join(luksFormat("/run/head", "/dev/x"), " ")
	for _, want := range []string{"--type luks2", "--header /run/head", "--offset 8192", "--luks2-keyslots-size 4161536", "--key-size 512"} {
		if !strings.Contains(argv, want) {
			t.Errorf("%s\nwant %s", argv, want)
		}
	}
	if got := mkfs("/dev/x"); got[len(got)-1] != "/dev/x" || !slices.Contains(got, "options=/usr/share/xfsprogs/mkfs/lts_6.1.conf") {
		t.Errorf("mkfs = %q", got)
	}
}

func TestSecret(t *testing.T) {
	k, err := newSecret([]byte("the key"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for range 2 { // each reader begins at its start
		var out bytes.Buffer
		if err := run(t.Context(), command.Cmd{Argv: []string{"cat", secretPath}, Files: []*os.File{k.f}, Stdout: &out}); err != nil || out.String() != "the key" {
			t.Errorf("read %q, %v", out.String(), err)
		}
	}
	if fi, err := k.f.Stat(); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}
