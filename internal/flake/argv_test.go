package flake_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/registrystate"
)

func TestParseCall(t *testing.T) {
	for _, c := range []struct {
		args, want, instance string
		ignore               bool
		err                  string
	}{
		{"", "", "", false, ""},
		{"-c x --flag", "-c x --flag", "", false, ""},
		{"@one -c @two", "-c", "one", false, ""},
		{"%remove %ignore_missing_volume_path %progress x", "x", "", true, ""},
		{"-- @scope/pkg %s", "@scope/pkg %s", "", false, ""},
		{"@a -- @b", "@b", "a", false, ""},
		{"grep -- @x %y", "grep -- @x %y", "", false, ""},
		{"-- -- @x", "-- @x", "", false, ""},
		{"--", "", "", false, ""},
		{"@scope/pkg", "", "", false, "instance"},
		{"x @" + strings.Repeat("a", 64), "", "", false, "instance"},
		{"@", "", "", false, "instance"},
		{"printf %s", "", "", false, "option %s"},
	} {
		got, err := flake.ParseCall(strings.Fields(c.args))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("ParseCall(%s) = %v, want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || strings.Join(got.Args, " ") != c.want || got.Instance != c.instance || got.IgnoreMissingVolume != c.ignore {
			t.Errorf("ParseCall(%s) = %+v, %v, want %q, @%s, %v", c.args, got, err, c.want, c.instance, c.ignore)
		}
	}
}

// Behind -- an application gets every argument there is.
func TestEveryArgumentCanBePassed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.OneOf(rapid.SampledFrom([]string{"--", "@a", "%b", "%remove", "", "-t", "a b"}), rapid.String())
		want := rapid.SliceOf(word).Draw(t, "args")
		c, err := flake.ParseCall(append([]string{"--"}, want...))
		if err != nil || !slices.Equal(c.Args, want) {
			t.Fatalf("ParseCall(-- %q) = %+v, %v", want, c, err)
		}
	})
}

func argv(r *flake.Registration, args string, change func(*flake.Situation)) (string, error) {
	c, err := flake.ParseCall(strings.Fields(args))
	if err != nil {
		return "", err
	}
	s := flake.Situation{
		Registry: registrystate.State{OK: true},
		Getenv:   func(name string) string { return map[string]string{"HOME": "/home/me", "TWICE": "%HOME"}[name] },
		Exists:   func(path string) bool { return path == "/there" },
	}
	if change != nil {
		change(&s)
	}
	words, err := flake.Argv(r, c, s)
	return strings.Join(words, "|"), err
}

func TestArgv(t *testing.T) {
	gone := func(s *flake.Situation) { s.Registry = registrystate.State{Reason: "no TPM"} }
	atTerminal := func(s *flake.Situation) { s.Terminal = true }
	flakeOf := func(change func(*flake.Registration)) *flake.Registration {
		r := &flake.Registration{Name: "app", Container: flake.Container{Name: "img", Target: "/bin/app", Runtime: flake.Runtime{RunAs: "root"}}}
		change(r)
		return r
	}
	shipped := func(r *flake.Registration) { r.Shipped = true }
	with := func(o ...string) func(*flake.Registration) {
		return func(r *flake.Registration) { r.Container.Runtime.Podman = o }
	}
	const (
		run      = "/usr/bin/podman|run|--rm|--pull=missing|--label|eos.flake=app|"
		inMemory = "/usr/bin/podman|--root|/run/eos/flakes/storage|--runroot|/run/eos/flakes/run|--storage-driver|overlay|" +
			"--storage-opt|additionalimagestore=/usr/lib/eos/containers|--events-backend|none|"
	)
	for _, c := range []struct {
		name   string
		r      *flake.Registration
		args   string
		change func(*flake.Situation)
		want   string
	}{
		{"plain", flakeOf(func(*flake.Registration) {}), "-v x", nil, run + "--interactive|--tty|--entrypoint|/bin/app|img|-v|x"},
		{"image's program", flakeOf(func(r *flake.Registration) { r.Container.Target = "/" }), "", atTerminal, run + "--interactive|--tty|img"},
		{"own name", flakeOf(func(r *flake.Registration) { r.Container.Target = "" }), "", atTerminal, run + "--interactive|--tty|--entrypoint|app|img"},
		{"instance", flakeOf(with("-i")), "@a@b=c", nil, run + "--label|eos.instance=a@b=c|--name|app.a.b.c|-i|--entrypoint|/bin/app|img"},
		{"options", flakeOf(with("--volume /a b:/c", "--env=X", "--rm")), "", nil, run + "--volume|/a b:/c|--env=X|--rm|--entrypoint|/bin/app|img"},
		{"variables", flakeOf(with("--volume %HOME:/x", "-e=%TWICE", "-e=%NONE", "-e=%lower%")), "", nil, run + "--volume|/home/me:/x|-e=%HOME|-e=$NONE|-e=%lower%|--entrypoint|/bin/app|img"},
		{"pipe", flakeOf(with("-ti", "--tty", "-t")), "", nil, run + "-i|--entrypoint|/bin/app|img"},
		{"terminal", flakeOf(with("-ti", "--tty", "-t")), "", atTerminal, run + "-ti|--tty|-t|--entrypoint|/bin/app|img"},
		{"missing volumes", flakeOf(with("--volume /gone:/x", "--volume=/gone:/x", "-v /there:/x", "--volume name:/x")), "%ignore_missing_volume_path", nil,
			run + "-v|/there:/x|--volume|name:/x|--entrypoint|/bin/app|img"},
		{"shipped", flakeOf(shipped), "", atTerminal, "/usr/bin/podman|run|--rm|--pull=never|--label|eos.flake=app|--interactive|--tty|--entrypoint|/bin/app|img"},
		{"shipped, no registry", flakeOf(shipped), "", func(s *flake.Situation) { gone(s); atTerminal(s) },
			inMemory + "run|--rm|--pull=never|--label|eos.flake=app|--interactive|--tty|--entrypoint|/bin/app|img"},
		{"shipped, read-only", flakeOf(func(r *flake.Registration) { shipped(r); with("--read-only")(r) }), "x", nil,
			inMemory + "run|--rm|--pull=never|--label|eos.flake=app|--read-only|--entrypoint|/bin/app|img|x"},
		{"read-only", flakeOf(with("--read-only")), "", nil, run + "--read-only|--entrypoint|/bin/app|img"},
	} {
		if c.name == "plain" {
			c.change = atTerminal
		}
		got, err := argv(c.r, c.args, c.change)
		if diff := cmp.Diff(strings.Split(c.want, "|"), strings.Split(got, "|")); err != nil || diff != "" {
			t.Errorf("%s: Argv: %v (-want +got):\n%s", c.name, err, diff)
		}
	}

	for name, r := range map[string]*flake.Registration{
		"registered": flakeOf(func(*flake.Registration) {}),
		"a user's": flakeOf(func(r *flake.Registration) {
			r.Shipped = true
			r.Container.Runtime.RunAs = ""
		}),
	} {
		if _, err := argv(r, "", gone); !errors.Is(err, flake.ErrNoRegistry) || !strings.Contains(err.Error(), "no TPM") {
			t.Errorf("%s: Argv without a registry = %v, want why", name, err)
		}
	}
}

func TestNotSupportedYet(t *testing.T) {
	for key, change := range map[string]func(*flake.Registration){
		"resume":         func(r *flake.Registration) { r.Container.Runtime.Resume = true },
		"attach":         func(r *flake.Registration) { r.Container.Runtime.Attach = true },
		"base_container": func(r *flake.Registration) { r.Container.Base = "basesystem" },
		"layers":         func(r *flake.Registration) { r.Container.Layers = []string{"x"} },
		"check_host":     func(r *flake.Registration) { r.Container.CheckHost = true },
		"include.tar":    func(r *flake.Registration) { r.Include.Tar = []string{"/x.tar"} },
		"include.path":   func(r *flake.Registration) { r.Include.Path = []string{"/x"} },
	} {
		r := &flake.Registration{Name: "app", Container: flake.Container{Name: "img"}}
		change(r)
		if got, err := argv(r, "", nil); err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "not supported yet") {
			t.Errorf("Argv with %s = %s, %v, want that it is not supported yet", key, got, err)
		}
	}
}

func TestStateFolder(t *testing.T) {
	r := &flake.Registration{Name: "fleet", Shipped: true, Container: flake.Container{Runtime: flake.Runtime{
		Podman: []string{"--volume /run:/run", "--volume /var/lib/eos/fleet:/var/lib/eos/fleet", "-i"},
	}}}
	if got := flake.StateFolder(r); got != "/var/lib/eos/fleet" {
		t.Errorf("StateFolder = %q, want /var/lib/eos/fleet", got)
	}
	r.Name = "other"
	if got := flake.StateFolder(r); got != "" {
		t.Errorf("StateFolder of another flake = %q, want none", got)
	}
	r.Name, r.Shipped = "fleet", false
	if got := flake.StateFolder(r); got != "" {
		t.Errorf("StateFolder of a registered flake = %q, want none", got)
	}
}
