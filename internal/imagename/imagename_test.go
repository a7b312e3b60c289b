package imagename_test

import (
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/imagename"
)

func TestLocal(t *testing.T) {
	for name, want := range map[string]string{
		"basesystem":                  "localhost/basesystem:latest",
		"basesystem:1.0":              "localhost/basesystem:1.0",
		"suse-apps/lynx":              "localhost/suse-apps/lynx:latest",
		"localhost/basesystem":        "localhost/basesystem:latest",
		"localhost/basesystem:latest": "localhost/basesystem:latest",
		"registry.example.com/a/b":    "registry.example.com/a/b:latest",
		"registry.example.com:5000/a": "registry.example.com:5000/a:latest",
		"[::1]:5000/a:x":              "[::1]:5000/a:x",
		"a__b--c.d":                   "localhost/a__b--c.d:latest",
	} {
		if got, err := imagename.Local(name); got != want || err != nil {
			t.Errorf("Local(%q) = %q, %v, want %q", name, got, err, want)
		}
		if got, err := imagename.Local(want); got != want || err != nil {
			t.Errorf("Local(%q) = %q, %v, want it unchanged", want, got, err)
		}
	}
	for _, name := range []string{
		"", "/", "a/", "/a", "A", "a b", "a\n", "a:", ":1", "a@sha256:" + strings.Repeat("0", 64), "../a", "a/../b", "a//b",
		"a:" + strings.Repeat("t", 129), strings.Repeat("a", 300), "-a", "a-", "a___b", "b..c/a", "a:1:2",
	} {
		if got, err := imagename.Local(name); err == nil {
			t.Errorf("Local(%q) = %q, want an error", name, got)
		}
	}
}

func TestPinned(t *testing.T) {
	sum := "sha256:" + strings.Repeat("0a", 32)
	for _, name := range []string{"registry.example.com/a/b@" + sum, "localhost:5000/a@" + sum} {
		if got, err := imagename.Pinned(name); err != nil || got.String() != name {
			t.Errorf("Pinned(%q) = %v, %v, want the same", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"registry.example.com/a":                        "no digest",
		"a@" + sum:                                      "no registry",
		"registry.example.com/a:1@" + sum:               "leave the tag out",
		"registry.example.com/a@sha256:00":              "not a digest",
		"registry.example.com/a@sha512:00":              "not a digest",
		"registry.example.com/../a@" + sum:              "is not REGISTRY",
		"http://registry.example.com/a@" + sum:          "is not REGISTRY",
		"user:pw@registry.example.com/a@" + sum:         "no registry",
		"registry.example.com/a@" + sum + "@" + sum:     "not a digest",
		"registry.example.com/" + "a b" + "@" + sum:     "is not REGISTRY",
		"registry.example.com/a@" + sum + "\n":          "not a digest",
		"registry.example.com:port/a@" + sum:            "is not REGISTRY",
		"registry.example.com/" + "A" + "@" + sum:       "is not REGISTRY",
		"registry.example.com/a@" + "SHA256:" + "0":     "not a digest",
		"registry.example.com/@" + sum:                  "is not REGISTRY",
		strings.Repeat("a", 400) + ".com" + "/a@" + sum: "is not REGISTRY",
	} {
		if _, err := imagename.Pinned(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Pinned(%q): %v, want an error with %q", name, err, want)
		}
	}
}

func TestTagged(t *testing.T) {
	for name, want := range map[string]string{
		"registry.example.com/apps/lynx:1.0": "registry.example.com/apps/lynx:1.0",
		"registry.example.com/apps/lynx":     "registry.example.com/apps/lynx:latest",
		"localhost:5000/a":                   "localhost:5000/a:latest",
		"[::1]:5000/a:b":                     "[::1]:5000/a:b",
	} {
		got, err := imagename.Tagged(name)
		if err != nil || got.String() != want {
			t.Errorf("Tagged(%q) = %q, %v, want %q", name, got, err, want)
		}
		if local := strings.Contains(name, "5000"); got.Local() != local {
			t.Errorf("Tagged(%q).Local() = %v, want %v", name, got.Local(), local)
		}
	}
	for _, name := range []string{"", "lynx", "apps/lynx:1", "registry.example.com/", "registry.example.com/A", "registry.example.com/a:", "registry.example.com/a:b:c", "registry.example.com/a@sha256:" + strings.Repeat("0a", 32), "a.com/" + strings.Repeat("a", 300)} {
		if got, err := imagename.Tagged(name); err == nil {
			t.Errorf("Tagged(%q) = %q, want an error", name, got)
		}
	}
}

func TestScope(t *testing.T) {
	for name, good := range map[string]bool{
		"registry.example.com": true, "registry.example.com:5000/apps/more": true, "localhost": true,
		"": false, "a b": false, "registry.example.com/": false, "registry.example.com/a:1": false, "registry.example.com/A": false, "*.example.com": false,
	} {
		if err := imagename.Scope(name); (err == nil) != good {
			t.Errorf("Scope(%q): %v, want an error: %v", name, err, !good)
		}
	}
}

func TestLoopback(t *testing.T) {
	for name, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:80": true, "[::1]:5000": true, "127.9.9.9": true,
		"10.0.0.1": false, "registry.local": false, "localhost.example.com": false, "registry.example.com:443": false, "": false,
	} {
		if got := imagename.Loopback(name); got != want {
			t.Errorf("Loopback(%q) = %v, want %v", name, got, want)
		}
	}
}

// A name that is accepted names itself.
func FuzzLocal(f *testing.F) {
	for _, s := range []string{"basesystem", "a.b/c:d", "localhost:1/x", "[::1]/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		full, err := imagename.Local(name)
		if err != nil {
			return
		}
		if again, err := imagename.Local(full); err != nil || again != full {
			t.Errorf("Local(%q) = %q, and of that %q, %v", name, full, again, err)
		}
		if strings.ContainsAny(full, " \n\x00\"'\\") || strings.Contains(full, "..") && !strings.Contains(full, ":") {
			t.Errorf("Local(%q) = %q", name, full)
		}
	})
}
