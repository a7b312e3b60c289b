package restricted_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/serve/restricted"
	"github.com/OSInside/eos/internal/serve/restricted/restrictedtest"
)

func TestParse(t *testing.T) {
	const dir = restricted.ImagesDir + "/"
	for command, want := range map[string]restricted.Request{
		"os-update-restricted":                           {Op: restricted.HTTP},
		"sudo cat " + dir + "EOS.aarch64-RPI-TW.raw.dev": {Op: restricted.Cat, Name: "EOS.aarch64-RPI-TW.raw.dev"},
		"cat " + dir + "EOS.x86_64-AB.raw.firmware":      {Op: restricted.Cat, Name: "EOS.x86_64-AB.raw.firmware"},
		"cat " + dir + "a.raw":                           {Op: restricted.Cat, Name: "a.raw"},
		"cat " + dir + "a-1.2+b_c.raw.sha":               {Op: restricted.Cat, Name: "a-1.2+b_c.raw.sha"},
		"test -e " + dir + "EOS.raw.dev":                 {Op: restricted.Exist, Name: "EOS.raw.dev"},
		"sudo test -e " + dir + "EOS.raw.dev":            {Op: restricted.Exist, Name: "EOS.raw.dev"},
		"cat " + dir + strings.Repeat("a", 190) + ".raw": {Op: restricted.Cat, Name: strings.Repeat("a", 190) + ".raw"},
	} {
		if got, err := restricted.Parse(command); got != want || err != nil {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", command, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	list := restrictedtest.Attacks()
	if len(list) < 200 {
		t.Fatalf("%d malformed requests, want 200 at least", len(list))
	}
	for _, command := range list {
		got, err := restricted.Parse(command)
		if !errors.Is(err, restricted.ErrRefused) {
			t.Errorf("Parse(%q) = %+v, %v; want %v", command, got, err, restricted.ErrRefused)
		} else if len(err.Error()) > 1000 {
			t.Errorf("Parse of %d bytes: an error of %d bytes", len(command), len(err.Error()))
		}
	}
}

// FuzzParse: what is accepted is one of the few forms, to the byte.
func FuzzParse(f *testing.F) {
	for _, command := range restrictedtest.Attacks() {
		f.Add(command)
	}
	f.Add("sudo cat " + restricted.ImagesDir + "/EOS.raw.dev")
	f.Fuzz(func(t *testing.T, command string) {
		r, err := restricted.Parse(command)
		if err != nil {
			return
		}
		form := map[restricted.Op]string{restricted.HTTP: restricted.Program, restricted.Cat: "cat " + restricted.ImagesDir + "/" + r.Name, restricted.Exist: "test -e " + restricted.ImagesDir + "/" + r.Name}[r.Op]
		if command != form && (r.Op == restricted.HTTP || command != "sudo "+form) {
			t.Errorf("Parse(%q) = %+v, which is %q", command, r, form)
		}
		if strings.ContainsAny(r.Name, "/\\ \x00\n'\"$`;&|<>*?") || strings.HasPrefix(r.Name, ".") || strings.HasPrefix(r.Name, "-") || strings.Contains(r.Name, "..") {
			t.Errorf("Parse(%q) accepts the name %q", command, r.Name)
		}
	})
}
