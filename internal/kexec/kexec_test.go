package kexec_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/kexec"
	"github.com/OSInside/eos/internal/kexec/kexectest"
	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	img := kexectest.UKI(t, "kernel bytes", "initrd bytes", "console=ttyS0 quiet\n\x00")
	u, err := kexec.Parse(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  io.Reader
		want string
	}{{"linux", u.Linux, "kernel bytes"}, {"initrd", u.Initrd, "initrd bytes"}, {"cmdline", strings.NewReader(u.Cmdline), "console=ttyS0 quiet"}} {
		b, err := io.ReadAll(c.got)
		if err != nil || string(b) != c.want {
			t.Errorf("section %s = %q, %v, want %q", c.name, b, err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := kexectest.UKI(t, "kernel", "initrd", "a=b")
	for _, c := range []struct {
		name, want string
		img        func() []byte
	}{
		{"empty", "parse kernel image", func() []byte { return nil }},
		{"not PE", "parse kernel image", func() []byte { return bytes.Repeat([]byte{'x'}, 4096) }},
		{"cut", "ends after the file", func() []byte { return good[:len(good)-600] }},
		{"no kernel", "no section .linux", func() []byte { return kexectest.Sections(t, ".initrd", "x", ".cmdline", "y") }},
		{"no initrd", "no section .initrd", func() []byte { return kexectest.Sections(t, ".linux", "x") }},
		{"empty kernel", "no section .linux", func() []byte { return kexectest.Sections(t, ".linux", "", ".initrd", "x") }},
		{"twice", "twice", func() []byte { return kexectest.Sections(t, ".linux", "x", ".initrd", "x", ".linux", "y") }},
		{"long command line", "more than", func() []byte { return kexectest.UKI(t, "k", "i", strings.Repeat("x", 5000)) }},
	} {
		img := c.img()
		_, err := kexec.Parse(bytes.NewReader(img), int64(len(img)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%s) = %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	long := strings.Repeat("x", 2100)
	for _, c := range []struct {
		base  string
		words []string
		want  string
		err   string
	}{
		{"", []string{"a=1"}, "a=1", ""},
		{"console=ttyS0 eos.slot=a quiet", []string{"eos.slot=b", "COMMIT_UPDATE"}, "console=ttyS0 quiet eos.slot=b COMMIT_UPDATE", ""},
		{"COMMIT_UPDATE eos.disk=1 eos.disk=2", []string{"eos.disk=3"}, "COMMIT_UPDATE eos.disk=3", ""},
		{"COMMIT_UPDATE=1 x", []string{"COMMIT_UPDATE"}, "x COMMIT_UPDATE", ""},
		{`dyndbg="file a +p"  x`, []string{"eos.slot=b"}, `dyndbg="file a +p" x eos.slot=b`, ""},
		{"x -- init eos.slot=a", []string{"eos.slot=b"}, "x eos.slot=b -- init eos.slot=a", ""},
		{"x", nil, "x", ""},
		{"x", []string{"two words"}, "", "not one plain word"},
		{"x", []string{""}, "", "not one plain word"},
		{"x\x01y", nil, "", "control character"},
		{`x="open`, nil, "", "quote"},
		{long, nil, "", "kernel takes"},
	} {
		got, err := kexec.CommandLine(c.base, c.words...)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("CommandLine(%.40q, %q) = %v, want an error with %q", c.base, c.words, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("CommandLine(%q, %q) = %q, %v, want %q", c.base, c.words, got, err, c.want)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add("console=ttyS0 eos.slot=a")
	f.Add(`a="b c" -- eos.slot=a`)
	f.Fuzz(func(t *testing.T, base string) {
		line, err := kexec.CommandLine(base, "eos.slot=b", "COMMIT_UPDATE")
		if err != nil {
			return
		}
		// The slot is named exactly once before `--`, by us.
		var got []string
		for _, w := range kexec.Words(line) {
			if w == "--" {
				break
			}
			if strings.HasPrefix(w, "eos.slot") && (len(w) == 8 || w[8] == '=') {
				got = append(got, w)
			}
		}
		if diff := cmp.Diff([]string{"eos.slot=b"}, got); diff != "" {
			t.Errorf("CommandLine(%q) = %q: %s", base, line, diff)
		}
		again, err := kexec.CommandLine(line, "eos.slot=b", "COMMIT_UPDATE")
		if err != nil || again != line {
			t.Errorf("CommandLine of its own output %q = %q, %v", line, again, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	img := kexectest.UKI(f, "kernel bytes", "initrd bytes", "a=b")
	f.Add(img)
	f.Add(img[:200])
	broken := bytes.Clone(img)
	binary.LittleEndian.PutUint32(broken[0x3c:], 0xfffffff0)
	f.Add(broken)
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := kexec.Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, s := range []*io.SectionReader{u.Linux, u.Initrd} {
			if n, err := io.Copy(io.Discard, s); err != nil || n != s.Size() || n == 0 {
				t.Errorf("section of %d bytes read as %d, %v", s.Size(), n, err)
			}
		}
	})
}
