package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/inspect"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/slotimage/slotimagetest"
)

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys := filepath.Join(dir, "keys")
	if err := os.Mkdir(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"keys/image.pub": 1, "keys/root.pub": 2, "other.pub": 3} {
		pem, err := key.MarshalPublic(slotimagetest.Public(n))
		if err != nil {
			t.Fatal(err)
		}
		write(name, pem)
	}
	good, _ := slotimagetest.Image(t, slotimagetest.Template(), 40, 1)
	image := write("good.slot", good)
	rootSigned, _ := slotimagetest.Image(t, slotimagetest.Template(), 40, 1, slotimagetest.Key(2))
	flipped := bytes.Clone(good)
	flipped[20*4096+7] ^= 1

	tests := []struct {
		name string
		args []string
		code cli.Code
		want string // in what is printed
	}{
		{"good", []string{image}, cli.OK, "no problems found"},
		{"good in full", []string{image, "--full"}, cli.OK, "no problems found"},
		{"another key", []string{image, "--accept", filepath.Join(dir, "other.pub")}, cli.Unverified, "1 problem"},
		{"named key", []string{image, "--accept", "image"}, cli.OK, "no problems found"},
		{"no such key", []string{image, "--accept", "nix"}, cli.Failure, "nix.pub: no such file"},
		{"no keys", []string{image, "--keys", filepath.Join(dir, "none")}, cli.OK, "signatures are not checked"},
		{"a key with another role", []string{write("root.slot", rootSigned)}, cli.Unverified, "1 problem"},
		{"a flipped bit", []string{write("flipped.slot", flipped), "--full"}, cli.Unverified, "block 20"},
		{"text", []string{write("text", []byte(strings.Repeat("hello\n", 1000)))}, cli.Failure, "hint: want a disk image"},
		{"nothing there", []string{filepath.Join(dir, "nix")}, cli.Failure, "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, out := testEnv(append([]string{"inspect", "--keys", keys}, tt.args...)...)
			code := cli.RunEnv("eos", env, run)
			if code != int(tt.code) || !strings.Contains(out.String(), tt.want) {
				t.Errorf("eos inspect = %d, want %d and %q in:\n%s", code, tt.code, tt.want, out)
			}
		})
	}

	env, out := testEnv("inspect", "--keys", keys, "--json", image)
	if code := cli.RunEnv("eos", env, run); code != 0 {
		t.Fatalf("eos inspect --json = %d %s", code, out)
	}
	var report inspect.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("eos inspect --json printed %s: %v", out, err)
	}
	if len(report.Slots) != 1 || report.Slots[0].Signature.Verdict != inspect.Good || report.Slots[0].Signers[0].Name != "image" {
		t.Errorf("eos inspect --json = %s, want one slot signed by image", out)
	}
}
