package flake_test

import (
	"errors"
	"regexp"
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

// decide returns the decision for a call, and whatever else may be changed in the situation.
func decide(r *flake.Registration, args string, change func(*flake.Situation)) (*flake.Launch, error) {
	c, err := flake.ParseCall(strings.Fields(args))
	if err != nil {
		return nil, err
	}
	s := flake.Situation{
		Registry: registrystate.State{OK: true}, Own: true, Random: "1", Home: "/root",
		Getenv: func(name string) string {
			return map[string]string{"HOME": "/home/me", "TWICE": "%HOME", "TERM": "xterm", "LANG": "/x"}[name]
		},
		Exists: func(path string) bool { return path == "/there" },
	}
	if change != nil {
		change(&s)
	}
	return flake.Decide(r, c, s)
}

func flakeOf(change ...func(*flake.Registration)) *flake.Registration {
	r := &flake.Registration{Name: "app", Container: flake.Container{Name: "img", Target: "/bin/app", Runtime: flake.Runtime{RunAs: "root"}}}
	for _, c := range change {
		c(r)
	}
	return r
}

func shipped(r *flake.Registration) { r.Shipped = true }
func resume(r *flake.Registration)  { r.Container.Runtime.Resume = true }
func attach(r *flake.Registration)  { r.Container.Runtime.Attach = true }
func target(t string) func(*flake.Registration) {
	return func(r *flake.Registration) { r.Container.Target = t }
}
func with(o ...string) func(*flake.Registration) {
	return func(r *flake.Registration) { r.Container.Runtime.Podman = o }
}

func gone(s *flake.Situation)       { s.Registry = registrystate.State{Reason: "no TPM"} }
func atTerminal(s *flake.Situation) { s.Terminal = true }

func TestRun(t *testing.T) {
	const (
		label    = "--pull=never|--label|eos.flake=app|"
		run      = "/usr/bin/podman|--events-backend=none|run|--rm|" + label + "--name|flake.app_.1|--init|--init-path=/usr/bin/tini-static|"
		through  = "--log-driver=passthrough|"
		program  = "--entrypoint|/bin/app|img"
		inMemory = "/usr/bin/podman|--root|/run/eos/flakes/storage|--runroot|/run/eos/flakes/run|--storage-driver|overlay|" +
			"--storage-opt|additionalimagestore=/usr/lib/eos/containers|--events-backend|none|run|--rm|" + label + "--name|flake.app_.1|--init|--init-path=/usr/bin/tini-static|"
	)
	for _, c := range []struct {
		name   string
		r      *flake.Registration
		args   string
		change func(*flake.Situation)
		want   string
	}{
		{"at a terminal", flakeOf(), "-v x", atTerminal, run + "--interactive|--tty|--detach-keys=|--env|TERM=xterm|--log-driver=none|" + program + "|-v|x"},
		{"in a pipe", flakeOf(), "", nil, run + "--interactive|" + through + program},
		{"no input", flakeOf(with("--net host")), "", nil, run + through + "--net|host|" + program},
		{"image's program", flakeOf(target("/")), "x", nil, strings.Replace(run, "--init|--init-path=/usr/bin/tini-static|", "", 1) + "--interactive|" + through + "img|x"},
		{"own name", flakeOf(target("")), "", nil, run + "--interactive|" + through + "--entrypoint|app|img"},
		{"init", flakeOf(target("/usr/sbin/init"), with("-t")), "", nil, strings.Replace(run, "--init|--init-path=/usr/bin/tini-static|", "", 1) + through + "--entrypoint|/usr/sbin/init|img"},
		{"the host's processes", flakeOf(with("--pid host")), "", nil, strings.Replace(run, "--init|--init-path=/usr/bin/tini-static|", "", 1) + through + "--pid|host|" + program},
		{"instance", flakeOf(with("-i")), "@a@b=c_d", nil, "/usr/bin/podman|--events-backend=none|run|--rm|" + label + "--label|eos.instance=a@b=c_d|--name|flake.app_.a_.b_x3dc__d|--replace|--init|--init-path=/usr/bin/tini-static|--interactive|" + through + program},
		{"own name of the container", flakeOf(with("--name=n")), "", nil, "/usr/bin/podman|--events-backend=none|run|--rm|" + label + "--replace|--init|--init-path=/usr/bin/tini-static|" + through + "--name=n|" + program},
		{"options", flakeOf(with("--volume /a b:/c", "--env=X", "--rm", "-dit", "-it")), "", nil, run + "--interactive|--volume|/a b:/c|--env=X|--rm|-d|" + program},
		{"log", flakeOf(with("--log-driver journald")), "", nil, run + "--log-driver|journald|" + program},
		{"variables", flakeOf(with("--volume %HOME:/x", "-e=%TWICE", "-e=%NONE", "-e=%lower%")), "", nil, run + through + "--volume|/home/me:/x|-e=%HOME|-e=$NONE|-e=%lower%|" + program},
		{"variables of another", flakeOf(with("--volume %HOME:/x", "-e=%TERM", "-e=%NONE")), "", func(s *flake.Situation) { s.Own = false }, run + through + "--volume|/root:/x|-e=xterm|-e=$NONE|" + program},
		{"missing volumes", flakeOf(with("--volume /gone:/x", "--volume=/gone:/x", "-v /there:/x", "--volume name:/x")), "%ignore_missing_volume_path", nil,
			run + through + "-v|/there:/x|--volume|name:/x|" + program},
		{"shipped", flakeOf(shipped), "", nil, run + "--interactive|" + through + program},
		{"shipped, no registry", flakeOf(shipped), "", gone, inMemory + "--interactive|" + through + program},
		{"shipped, read-only", flakeOf(shipped, with("--read-only")), "x", nil, inMemory + through + "--read-only|" + program + "|x"},
		{"read-only", flakeOf(with("--read-only")), "", nil, run + through + "--read-only|" + program},
		{"in a service", flakeOf(with("-i")), "", func(s *flake.Situation) { s.Delegated = true }, strings.Replace(run, "--init|", "--cgroups=split|--init|", 1) + "--interactive|" + through + program},
		{"pid file", flakeOf(with("-i")), "", func(s *flake.Situation) { s.PidFile = "/p" }, strings.Replace(run, "--init|--init-path=/usr/bin/tini-static|", "--pidfile|/p|--init|--init-path=/usr/bin/tini-static|", 1) + "--interactive|" + through + program},
	} {
		l, err := decide(c.r, c.args, c.change)
		if err != nil {
			t.Errorf("%s: Decide: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(strings.Split(c.want, "|"), l.Run("img")); diff != "" {
			t.Errorf("%s: Run (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestContainersThatStay(t *testing.T) {
	const label = "--label|eos.flake.stays=true"
	for _, c := range []struct{ name, got, want string }{
		{"keep", strings.Join(must(t, flakeOf(resume), "@x a").Keep("asm:1"), "|"), "/usr/bin/podman|--events-backend=none|run|" + label + "|--detach|--pull=never|--label|eos.flake=app|" +
			"--label|eos.instance=x|--name|flake.app_.x|--init|--init-path=/usr/bin/tini-static|--log-driver=none|--entrypoint|sleep|asm:1|4294967295d"},
		{"exec", strings.Join(must(t, flakeOf(resume), "a b").Exec(), "|"), "/usr/bin/podman|--events-backend=none|exec|--interactive|flake.app|/bin/app|a|b"},
		{"create", strings.Join(must(t, flakeOf(attach, with("-t", "--log-driver=none")), "a").Create("img"), "|"), "/usr/bin/podman|--events-backend=none|create|" + label + "|--pull=never|--label|eos.flake=app|" +
			"--name|flake.app|--tty|--log-driver=none|--entrypoint|/bin/app|img|a"},
		{"start", strings.Join(must(t, flakeOf(attach), "").StartAttached(), "|"), "/usr/bin/podman|--events-backend=none|start|--attach|--interactive|flake.app"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %s, want %s", c.name, c.got, c.want)
		}
	}
}

func must(t *testing.T, r *flake.Registration, args string) *flake.Launch {
	t.Helper()
	l, err := decide(r, args, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRefused(t *testing.T) {
	notOwn := func(s *flake.Situation) { s.Own = false }
	for _, c := range []struct {
		name   string
		r      *flake.Registration
		change func(*flake.Situation)
		want   string
	}{
		{"no registry", flakeOf(), gone, "no TPM"},
		{"no registry, a user's", flakeOf(shipped, func(r *flake.Registration) { r.Container.Runtime.RunAs = "" }), gone, "no TPM"},
		{"both", flakeOf(resume, attach), nil, "exclude each other"},
		{"resume of what the image starts", flakeOf(resume, target("/")), nil, "resume needs target_app_path"},
		{"layers alone", flakeOf(func(r *flake.Registration) { r.Container.Layers = []string{"x"} }), nil, "layers need a base_container"},
		{"resume in the background", flakeOf(resume, with("-d")), nil, "not detached"},
		{"a path of the caller's", flakeOf(with("-v=%LANG:/x")), notOwn, "%LANG"},
		{"another variable of the caller's", flakeOf(with("-v=%TWICE:/x")), notOwn, "%TWICE"},
		{"zero byte", flakeOf(with("a\x00")), nil, "zero byte"},
	} {
		if l, err := decide(c.r, "", c.change); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Decide = %+v, %v, want %q", c.name, l, err, c.want)
		}
	}
	if _, err := decide(flakeOf(), "", gone); !errors.Is(err, flake.ErrNoRegistry) {
		t.Errorf("Decide = %v, want ErrNoRegistry", err)
	}
}

// Containers of different flakes and instances have different names, which podman takes.
func TestContainerName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.SampledFrom([]string{"a", "a_", "a_.b", "a@b", "a.b", "ä"}), rapid.String())
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		x, y := flake.ContainerName(a, ""), flake.ContainerName(b, "")
		if (a == b) != (x == y) {
			t.Fatalf("ContainerName(%q) = %s, of %q %s", a, x, b, y)
		}
		if !regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`).MatchString(x) {
			t.Fatalf("ContainerName(%q) = %s, which podman does not take", a, x)
		}
	})
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
