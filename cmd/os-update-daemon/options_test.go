package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin"
	"github.com/OSInside/eos/internal/update"
)

const completion = "../../os/update-server/usr/share/bash-completion/completions/os-update-daemon"

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// call runs the program.
func call(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := &cli.Env{Stdout: &out, Stderr: &errs, Args: args, Getenv: func(string) string { return "" }}
	code = cli.RunEnv(program, env, Main)
	return code, out.String(), errs.String()
}

// TestEveryOptionIsNamed keeps help, manual page and completion complete.
func TestEveryOptionIsNamed(t *testing.T) {
	man, words := read(t, "../../docs/man/os-update-daemon.8"), strings.Fields(strings.ReplaceAll(read(t, completion), `"`, " "))
	n := 0
	for _, a := range actions {
		if a.name != "" && (!strings.Contains(usage, "\n  "+a.name+" ") || !strings.Contains(man, "\n.B os-update-daemon "+a.name+"\n") || !slices.Contains(words, a.name)) {
			t.Errorf("help, manual page or completion lacks the command %s", a.name)
		}
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		a.flags(&options{}, fs)
		fs.VisitAll(func(f *flag.Flag) {
			n++
			line := regexp.MustCompile(`(?m)^  --` + f.Name + ` .*$`).FindString(a.usage)
			if line == "" {
				t.Errorf("%s --help lacks --%s", a.name, f.Name)
			}
			if d := f.DefValue; d != "" && d != "false" && !strings.Contains(a.usage, d) {
				t.Errorf("%s --help lacks the default of --%s, %s", a.name, f.Name, d)
			}
			if !strings.Contains(man, strings.ReplaceAll("--"+f.Name, "-", `\-`)) {
				t.Errorf("the manual page lacks --%s", f.Name)
			}
			if !slices.Contains(words, "--"+f.Name) {
				t.Errorf("the completion lacks --%s", f.Name)
			}
		})
		for _, m := range regexp.MustCompile(`(?m)^  --([a-z-]+)`).FindAllStringSubmatch(a.usage, -1) {
			if fs.Lookup(m[1]) == nil {
				t.Errorf("%s --help has --%s, which there is not", a.name, m[1])
			}
		}
	}
	if n < 20 {
		t.Errorf("%d options seen, want all of them", n)
	}
}

// TestCompletion asks bash.
func TestCompletion(t *testing.T) {
	for _, c := range []struct{ words, want string }{
		{"f", "fetch"},
		{"''", "serve fetch mirror timers status --image --help"},
		{"serve --tls", "--tls-cert --tls-key"},
		{"fetch --a", "--allow-older"},
		{"timers --s", "--settings"},
		{"status --r", "--repo"},
		{"--image x --o", "--oneshot"},
		{"serve --grace 3", ""},
	} {
		script := `source ` + completion + `
			COMP_WORDS=(os-update-daemon ` + c.words + `) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_os_update_daemon; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", "-c", script).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("completion of %q = %q, %v, want %q", c.words, got, err, c.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		text string
	}{
		{"--help", 0, ""},
		{"serve --help", 0, ""},
		{"fetch --help", 0, ""},
		{"timers --help", 0, ""},
		{"status --help", 0, ""},
		{"--image x --help", 0, ""},
		{"", 2, "want serve"},
		{"run", 2, `unknown command "run"`},
		{"serve x", 2, "unexpected argument"},
		{"serve --port 1", 2, "not defined"},
		{"serve --tls-cert x", 2, "one is given without the other"},
		{"serve --client-ca x", 2, "--client-ca needs"},
		{"serve --max-connections 0", 2, "want 1 at least"},
		{"serve --grace 0s", 2, "want a time"},
		{"serve --repo /nonexistent", 1, "hint: eos publish"},
		{"fetch --listen x", 2, "not defined"},
		{"mirror --images x", 2, "not defined"},
		{"mirror --help", 0, ""},
		{"fetch --config /nonexistent", 1, "read configuration"},
		{"timers --config /nonexistent", 1, "read configuration"},
		{"--oneshot", 2, "--image is missing"},
		{"--image /x/a.raw --oneshot --config /nonexistent", 1, "read configuration"},
	} {
		if code, _, stderr := call(strings.Fields(c.args)...); code != c.code || !strings.Contains(stderr, c.text) {
			t.Errorf("%q: status %d, %s; want %d, %q", c.args, code, stderr, c.code, c.text)
		}
	}
	seen := map[string]bool{}
	for _, a := range actions {
		_, out, _ := call(strings.Fields(a.name + " --image x --help")...)
		if a.name != "" {
			_, out, _ = call(a.name, "--help")
		}
		if out != a.usage || seen[out] {
			t.Errorf("%s --help = %q, want a help of its own", a.name, out)
		}
		seen[out] = true
	}
}

// TestOneFileForBoth: an update server is a device too, and both programs read /etc/os-update.yml.
func TestOneFileForBoth(t *testing.T) {
	values := map[string]string{"server": "https://h/x", "activate": "reboot", "limit_rate": "1MiB", "certificate": "/c", "key": "/k"}
	device := ""
	typ := reflect.TypeFor[update.Config]()
	for i := range typ.NumField() {
		tag := typ.Field(i).Tag.Get("yaml")
		value := values[tag]
		if value == "" {
			value = "x"
		}
		device += tag + ": " + value + "\n"
	}
	text := device + "mirror: https://h/y\nupdate:\n- {image: https://h/a.raw, name: a.raw}\n"
	u, err := update.ParseConfig("c", []byte(text))
	if v := reflect.ValueOf(u); err != nil {
		t.Errorf("os-update reads %q: %v", text, err)
	} else {
		for i := range typ.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("os-update does not see %s in the file of a server", typ.Field(i).Tag.Get("yaml"))
			}
		}
	}
	if c, err := origin.ParseConfig("c", []byte(text)); err != nil || len(c.Update) != 1 || c.Mirror != "https://h/y" {
		t.Errorf("os-update-daemon reads %q: %+v, %v", text, c, err)
	}
	// And no others: those that it knows, both know.
	for key := range strings.Lines(documentKeys(t)) {
		key = strings.TrimSpace(key)
		if _, err := update.ParseConfig("c", []byte(key+":\n")); err != nil {
			t.Errorf("os-update-daemon takes the key %s, os-update says: %v", key, err)
		}
	}
	if _, err := origin.ParseConfig("c", []byte(device+"nonsense: x\n")); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("an unknown key: %v, want an error", err)
	}
}

// documentKeys are the keys that package origin knows, from its source.
func documentKeys(t *testing.T) string {
	_, text, ok := strings.Cut(read(t, "../../internal/origin/config.go"), "type document struct {")
	text, _, _ = strings.Cut(text, "\n}")
	var keys []string
	for _, m := range regexp.MustCompile("`yaml:\"([a-z_]+)\"`").FindAllStringSubmatch(text, -1) {
		keys = append(keys, m[1])
	}
	if !ok || len(keys) < 10 {
		t.Fatalf("keys %q found in the source of package origin, want all of them", keys)
	}
	return strings.Join(keys, "\n")
}
