package update

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	full := Config{Server: "https://updates.example.com/eos", Name: "EOS.x86_64", Class: "kiosk", Activate: "reboot", PKey: "/run/key", CA: "/etc/ca.pem", Certificate: "/run/c.pem", Key: "/run/k.pem", LimitRate: 1 << 20, Channel: "stable"}
	text := "server: https://updates.example.com/eos\nname: EOS.x86_64\nclass: kiosk\nactivate: reboot\npkey: /run/key\nca: /etc/ca.pem\ncertificate: /run/c.pem\nkey: /run/k.pem\nlimit_rate: 1MiB\nchannel: stable\n"
	for _, c := range []struct {
		name, in string
		want     Config
		err      string
	}{
		{"empty", "", Config{}, ""},
		{"comment", "# nothing\n", Config{}, ""},
		{"all", text, full, ""},
		{"nested", "update:\n  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n", full, ""},
		{"of a server", text + "mirror: https://h/x\nupdate:\n- {image: https://h/x.raw, name: x.raw}\n", full, ""},
		{"unknown on a server", "update: []\nnam: x\n", Config{}, "etc/x.yml:2: field nam not found"},
		{"update is a word", "update: x\n", Config{}, "etc/x.yml:1: cannot unmarshal"},
		{"rate in numbers", "limit_rate: 4096", Config{LimitRate: 4096}, ""},
		{"unknown", "name: x\nsrever: y\n", Config{}, "etc/x.yml:2: field srever not found"},
		{"unknown nested", "update:\n  nam: x\n", Config{}, "etc/x.yml:2: field nam not found"},
		{"both forms", "update:\n  name: x\nname: y\n", Config{}, "etc/x.yml:3: field name not found"},
		{"twice", "name: x\nname: y\n", Config{}, "already defined"},
		{"wrong type", "name: [x]\n", Config{}, "etc/x.yml:1: cannot unmarshal"},
		{"bad rate", "a: 1\nlimit_rate: fast\n", Config{}, "etc/x.yml:"},
		{"bad activate", "activate: jump", Config{}, "want kexec or reboot"},
		{"half a certificate", "certificate: x", Config{}, "one is given without the other"},
		{"bad name", "name: ../x", Config{}, "image name"},
		{"shell name", "name: 'x;y'", Config{}, "image name"},
		{"bad server", "server: ftp://x", Config{}, "scheme ftp"},
		{"two documents", "name: x\n---\nname: y\n", Config{}, "more than one"},
		{"not yaml", "{", Config{}, "etc/x.yml"},
		{"list", "- a\n", Config{}, "etc/x.yml:1:"},
	} {
		got, err := ParseConfig("etc/x.yml", []byte(c.in))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("ParseConfig(%s) = %v, want an error with %q", c.name, err, c.err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("ParseConfig(%s) = %v %s", c.name, err, diff)
		}
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]Rate{"": 0, "1": 1, "1k": 1024, "1K": 1024, "1KiB": 1024, "1.5MiB": 1572864, "2MB": 2 << 20, "1G": 1 << 30} {
		if got, err := ParseRate(in); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "0", "-1", "1X", "1 MiB", "MiB", "NaN", "1e999", "0.1"} {
		if got, err := ParseRate(in); err == nil {
			t.Errorf("ParseRate(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseServer(t *testing.T) {
	for in, want := range map[string]Server{
		"https://h/x/":        {URL: "https://h/x"},
		"http://127.0.0.1:80": {URL: "http://127.0.0.1:80"},
		"eos@host":            {SSH: "eos@host"},
		"ssh://eos@host":      {SSH: "eos@host"},
		"ssh://eos@host:222":  {SSH: "eos@host", Port: "222"},
	} {
		if got, err := ParseServer(in); err != nil || got != want {
			t.Errorf("ParseServer(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "host", "-oProxyCommand=x@h", "eos@-oX", "ssh://host", "ssh://a@h/path", "https://", "https://u:p@h", "https://h/?q=1", "file:///x", "a b@h"} {
		if got, err := ParseServer(in); err == nil {
			t.Errorf("ParseServer(%q) = %+v, want an error", in, got)
		}
	}
}
