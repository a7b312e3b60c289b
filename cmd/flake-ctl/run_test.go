package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake/unit/systemd"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// fakePodman notes what it is called with, and does what is in the file of its first words.
const fakePodman = `#!/bin/sh
D=${0%/*}
echo "$CONTAINERS_STORAGE_CONF|$*" >> "$D/calls"
[ ! -e "$D/$1" ] || . "$D/$1"
`

// system is a device of a test.
type system struct {
	t    *testing.T
	root string
	at   place
}

func newSystem(t *testing.T) *system {
	t.Helper()
	root := t.TempDir()
	s := &system{t: t, root: root, at: place{
		dir: root + "/share/flakes", shipped: root + "/shipped", registry: root + "/registry.json", memory: root + "/memory",
		system:      systemd.Manager{Dir: root + "/run/systemd", Path: []string{root + "/lib/systemd"}, Running: true, Systemctl: []string{root + "/systemctl"}},
		storageConf: []string{root + "/storage.conf"}, running: root + "/run/flakes",
		login: "root", home: root + "/home", podman: []string{root + "/podman"}, patience: time.Minute,
	}}
	s.put("podman", fakePodman)
	s.put("systemctl", strings.Replace(fakePodman, "$CONTAINERS_STORAGE_CONF", "systemctl", 1))
	s.put("storage.conf", "[storage]\ngraphroot = \""+root+"/store\"\n")
	s.put("registry.json", `{"state": "ok"}`)
	s.put("registry/flakes/keep", "")
	s.put("share/keep", "")
	if err := errors.Join(os.Chmod(root+"/podman", 0o755), os.Chmod(root+"/systemctl", 0o755), os.Symlink("../registry/flakes", s.at.dir)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *system) put(path, text string) {
	s.t.Helper()
	path = filepath.Join(s.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) read(path string) string {
	text, err := os.ReadFile(filepath.Join(s.root, path))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// call runs the program; R in an argument is the root of the system, and in what it returns.
func (s *system) call(args ...string) (code cli.Code, out, stderr string) {
	s.t.Helper()
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "R/", s.root+"/")
	}
	var o, e bytes.Buffer
	env := &cli.Env{Stdin: strings.NewReader(""), Stdout: &o, Stderr: &e, Args: args, Getenv: os.Getenv}
	n := cli.RunEnv("flake-ctl", env, func(ctx context.Context, env *cli.Env) error { return run(ctx, env, s.at) })
	return cli.Code(n), strings.ReplaceAll(o.String(), s.root, "R"), strings.ReplaceAll(e.String(), s.root, "R")
}

// want calls and compares; words of the command line have no blanks in them.
func (s *system) want(line string, code cli.Code, out, stderr string) {
	s.t.Helper()
	gotCode, gotOut, gotErr := s.call(strings.Fields(line)...)
	if gotCode != code || !strings.Contains(gotOut, out) || !strings.Contains(gotErr, stderr) || stderr == "" && gotErr != "" {
		s.t.Errorf("flake-ctl %s = %d,\n%s\n%s\nwant %d, %q, %q", line, gotCode, gotOut, gotErr, code, out, stderr)
	}
}

func (s *system) wantCalls(want string) {
	s.t.Helper()
	got := strings.ReplaceAll(s.read("calls"), s.root, "R")
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("calls of podman (-want +got):\n%s", diff)
	}
	os.Remove(s.root + "/calls")
}

func TestRegister(t *testing.T) {
	s := newSystem(t)
	s.want("podman register --container img --app R/bin/a.b --target / --opt \\-i \\--rm plain --layer l1 l2 --base b --include-tar /a /b --include-path=/c --check-host-dependencies --attach",
		cli.OK, "", "")
	want := `---
include:
  tar:
    - /a
    - /b
  path:
    - /c
container:
  name: img
  target_app_path: /
  host_app_path: R/bin/a.b
  base_container: b
  check_host_dependencies: true
  layers:
    - l1
    - l2
  runtime:
    runas: root
    resume: false
    attach: true
    podman:
      - -i
      - --rm
      - plain
vm: ~
`
	if diff := cmp.Diff(want, strings.ReplaceAll(s.read("registry/flakes/a.b.yaml"), s.root, "R")); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}
	s.want("podman register --container img --app R/bin/a.b", cli.Refused, "", "R/bin/a.b: it is in the way\nhint: --force")
	s.want("podman register --container new --app R/bin/a.b --force", cli.OK, "", "")
	s.put("bin/program", "x")
	s.want("podman register --container new --app R/bin/program --force", cli.Refused, "", "R/bin/program is no flake: it is in the way")
	s.put("shipped/fleet.yaml", "container: {name: f, host_app_path: /usr/bin/fleet}")
	s.want("podman register --container new --app R/bin/fleet", cli.Refused, "", "the image has one of this name: R/shipped/fleet.yaml\nhint: --force")
	s.want("podman remove --app R/bin/fleet", cli.Refused, "", "it is part of the image")
	s.want("podman register --container new --app R/bin/fleet --force", cli.OK, "", "")
	for line, text := range map[string]string{
		"podman register --container x":                                    "[app info]",
		"podman register --app /x":                                         `"container"`,
		"podman register --container x --app /x --info":                    "none of the others",
		"podman register --container x --app /x --resume --attach":         "none of the others",
		"podman register --container x --app x":                            "want an absolute path",
		"podman register --container x --app /x --layer y":                 "layers need a base",
		"podman register --container x --app /" + strings.Repeat("x", 300): "longer than 180",
		"podman register --container x --app /x --run-as me":               "unknown flag",
		"podman register --container x --app /x more":                      "unknown command",
		"podman remove":         "[app container]",
		"podman remove --app x": "want an absolute path",
		"podman pull":           "uri", "podman load": "oci", "podman pull --uri=-x": "not the name",
		"podman": "no command given", "": "no command given", "list --format xml": "want one of table", "nonsense": "unknown command",
		"firecracker pull": "unknown command",
	} {
		s.want(line, cli.Usage, "", text)
	}
	s.want("--version", cli.OK, "flake-ctl ", "")
	s.want("podman register -V", cli.OK, "flake-ctl ", "")
	s.want("podman remove --app R/bin/a.b", cli.OK, "", "")
	s.want("podman remove --app R/bin/a.b", cli.Failure, "", "it is not registered\nhint: flake-ctl list")
	s.want("podman remove --app R/bin/program --force", cli.Failure, "", "flake-ctl: R/bin/program is no flake and stays\n")
	if _, err := os.Stat(s.root + "/calls"); err == nil {
		t.Error("podman was called")
	}
}

func TestList(t *testing.T) {
	s := newSystem(t)
	s.want("list", cli.OK, "Flake applications registered in R/share/flakes\n\nNo application(s) registered\n", "")
	s.want("list --format json", cli.OK, "[]\n", "")
	s.put("shipped/fleet.yaml", "container: {name: f, host_app_path: /usr/bin/fleet}")
	s.put("registry/flakes/a,b.yaml", `container: {name: f, target_app_path: "/x\"y", host_app_path: /bin/a}`)
	s.put("registry/flakes/vm.yaml", "vm: {name: f, host_app_path: /bin/vm}")
	s.want("list --format csv", cli.OK, `"a,b",podman,"/x""y",/bin/a,"R/share/flakes/a,b.yaml"
fleet,podman,,/usr/bin/fleet,R/shipped/fleet.yaml
vm,firecracker,,/bin/vm,R/share/flakes/vm.yaml
`, "")
	s.put("registry/flakes/bad.yaml", "container:\n  nmae: x\n")
	broken := "flake-ctl: R/share/flakes/bad.yaml:2: container.nmae: unknown key"
	code, out, stderr := s.call("list")
	want := `Flake applications registered in R/share/flakes

NAME   ENGINE       TARGET APP PATH  HOST APP PATH   CONFIG
-----  -----------  ---------------  --------------  ROOT
a,b    podman       /x"y             /bin/a          R/share/flakes/a,b.yaml
bad    -            -                -               R/share/flakes/bad.yaml
fleet  podman       -                /usr/bin/fleet  R/shipped/fleet.yaml
vm     firecracker  -                /bin/vm         R/share/flakes/vm.yaml
`
	want = strings.Replace(want, "ROOT", strings.Repeat("-", len(s.root)+len("/share/flakes/bad.yaml")), 1)
	if diff := cmp.Diff(want, out); diff != "" || code != cli.Failure || !strings.HasPrefix(stderr, broken) {
		t.Errorf("list = %d, %s (-want +got):\n%s", code, stderr, diff)
	}
	s.want("list --format json", cli.Failure, `  {
    "name": "bad",
    "engine": null,
    "target": null,
    "host_app_path": null,
    "config": "R/share/flakes/bad.yaml"
  },
`, broken)
}

// Without the registry what is in the image can be seen, and nothing else is done.
func TestWithoutRegistry(t *testing.T) {
	s := newSystem(t)
	s.put("registry.json", `{"state": "degraded", "problem": "no TPM"}`)
	s.put("shipped/fleet.yaml", "container: {name: f, host_app_path: /usr/bin/fleet}")
	s.put("registry/flakes/app.yaml", "container: {name: f, host_app_path: /usr/bin/app}")
	why := "the registry is not there (no TPM)\nhint: flake-registry --status"
	s.want("list --format csv", cli.Degraded, "fleet,podman,,/usr/bin/fleet,R/shipped/fleet.yaml\n", why)
	s.want("podman register --container x --app R/bin/x", cli.Degraded, "", why)
	s.want("podman remove --container f", cli.Degraded, "", why)
	s.want("podman remove --app /usr/bin/app --force", cli.Degraded, "", why)
	s.want("podman pull --uri x", cli.Degraded, "", why)
	s.want("podman load --oci R/registry.json", cli.Degraded, "", why)
	s.want("podman show", cli.Degraded, "No instance(s) found", why)
	if _, err := os.Stat(s.root + "/calls"); err == nil {
		t.Error("podman was called")
	}

	// In a root that is being built it becomes part of the image.
	s.at.chroot = true
	s.want("podman register --container x --app R/bin/x", cli.OK, "", "it becomes part of the image in R/shipped; its container has to be in the image too")
	s.want("list --format csv", cli.OK, "x,podman,,R/bin/x,R/shipped/x.yaml", "")
	s.want("podman remove --app R/bin/x", cli.OK, "", "")
	if err := os.Remove(s.at.dir); err != nil {
		t.Fatal(err)
	}
	s.want("podman register --container x --app R/bin/x", cli.OK, "", "")
	if _, err := os.Stat(s.at.dir + "/x.yaml"); err != nil {
		t.Errorf("where the folder is no link: %v", err)
	}
}

func TestRemoveContainer(t *testing.T) {
	s := newSystem(t)
	for _, name := range []string{"a", "b", "other"} {
		image := "img"
		if name == "other" {
			image = name
		}
		s.want("podman register --container "+image+" --app R/bin/"+name, cli.OK, "", "")
	}
	s.want("podman register --container app --app R/bin/built --base img", cli.OK, "", "")
	s.want("podman remove --container img", cli.Refused, "", "flakes stand on it: built\nhint: --force")
	s.want("podman remove --app R/bin/built", cli.OK, "", "")
	s.put("registry/flakes/bad.yaml", "-")
	s.want("podman remove --container img", cli.OK, "", "bad.yaml:1: want keys and values")
	s.wantCalls("|image exists img\n|image rm --force img\n")
	s.want("list --format csv", cli.Failure, "other,podman,,R/bin/other", "bad.yaml")

	// One that stays keeps its container.
	s.put("registry/flakes/program.yaml", "container: {name: other, host_app_path: "+s.root+"/podman}")
	s.put("registry/flakes/podman.yaml", "container: {name: other, host_app_path: "+s.root+"/podman}")
	s.want("podman remove --container other", cli.Refused, "", "R/podman is no flake")
	s.want("podman remove --container other --force", cli.OK, "", "R/podman is no flake and stays")
	s.wantCalls("|image exists other\n|image rm --force other\n")
	if err := os.Remove(s.root + "/registry/flakes/bad.yaml"); err != nil {
		t.Fatal(err)
	}
	s.put("image", "exit 1\n")
	s.want("podman remove --container none", cli.Nothing, "", "there is none, and no flake of it")
	s.put("image", "[ $2 = exists ] || { echo Error: in use >&2; exit 2; }\n")
	s.want("podman remove --container none", cli.Failure, "", "remove container none: run podman: exit status 2: Error: in use")
}

func TestPull(t *testing.T) {
	s := newSystem(t)
	s.put("pull", "echo 'Trying to pull x...' >&2; echo id\n")
	s.want("podman pull --uri r.example.com/x", cli.OK, "id\n", "Trying to pull")
	s.wantCalls("|pull r.example.com/x\n|image prune --force\n")
	s.put("pull", "echo 'Error: x: Source image rejected: Running image x is rejected by policy.' >&2; exit 125\n")
	s.want("podman pull --uri x", cli.Refused, "", "hint: /etc/containers/policy.json")
	s.put("pull", "echo 'Error: pinging container registry: dial tcp: lookup r: no such host' >&2; exit 125\n")
	s.want("podman pull --uri x", cli.Unreachable, "", "hint: is the network up")
	s.put("pull", "echo 'Error: manifest unknown' >&2; exit 125\n")
	s.want("podman pull --uri x", cli.Failure, "", "pull x: run podman: exit status 125: Error: manifest unknown")
	s.wantCalls("|pull x\n|pull x\n|pull x\n")

	// podman would try again, and again.
	const warning = `time="now" level=warning msg="Failed, retrying in 1s ... (1/3). Error: dial tcp 127.0.0.1:1: connect: connection refused"`
	s.put("pull", "echo 'Trying to pull x...' >&2; echo '"+warning+"' >&2; exec sleep 1000\n")
	s.want("podman pull --uri x", cli.Unreachable, "", "pull x: run podman: the registry does not answer\nhint: ")
	// A registry that says nothing at all.
	s.at.patience = 10 * time.Millisecond
	s.put("pull", "echo 'Trying to pull x...' >&2; exec sleep 1000\n")
	s.want("podman pull --uri x", cli.Unreachable, "", "pull x: run podman: the registry does not answer\n")
	// An archive has no registry.
	s.put("pull", "sleep 0.1; echo id\n")
	s.want("podman pull --uri oci-archive:R/x.tar", cli.OK, "id", "")
	// One that has answered has all the time there is: that it tries again is its business.
	s.at.patience = time.Minute
	s.put("pull", "printf 'Trying to pull x...\nGetting image ' >&2; echo 'source signatures' >&2; echo '"+warning+"' >&2; echo id\n")
	s.want("podman pull --uri x", cli.OK, "id", "retrying")
	s.put("image", "exit 1\n")
	s.want("podman pull --uri x", cli.OK, "id", "the container is there; remove what it replaced: run podman: exit status 1")
}

func TestLoad(t *testing.T) {
	s := newSystem(t)
	s.put("app-1.tar", "")
	s.put("app-2.tar", "")
	s.put("app[1", "")
	for given, want := range map[string]string{"R/app-1.tar": "R/app-1.tar", "R/app": "R/app[1", "R/app-": "R/app-2.tar", "R/app[": "R/app[1"} {
		s.want("podman load --oci "+given, cli.OK, "", "")
		s.wantCalls("|load --input " + want + "\n|image prune --force\n")
	}
	for _, given := range []string{"R/none", "R/none/x", "R/", "R/sha"} {
		if given == "R/" {
			s.put("load", "exit 125\n") // it is there, and no archive
		}
		code, _, stderr := s.call("podman", "load", "--oci", given)
		if code != cli.Failure || given != "R/" && !strings.Contains(stderr, "find archive: ") {
			t.Errorf("load %s = %d, %s", given, code, stderr)
		}
	}
}

func TestUser(t *testing.T) {
	s := newSystem(t)
	s.want("init --user", cli.Failure, "", "root's flakes are those of the system")
	s.want("list --user", cli.OK, "registered in R/share/flakes", "") // root has no others
	s.at.uid, s.at.login = 1000, "me"
	s.want("podman --user register --container x --app R/home/bin/x", cli.Failure, "", "hint: flake-ctl init --user makes them")
	s.want("init", cli.Failure, "", "hint: flake-ctl init --user")
	s.want("init --user", cli.OK, "export CONTAINERS_STORAGE_CONF=R/home/.config/flakes/podman/storage.conf\n", "")
	s.put("home/.config/flakes/podman/storage.conf", "mine")
	s.want("init --user", cli.OK, "export ", "storage.conf is there already, and is kept\nflake-ctl: R/home/.config/flakes.yml is there")
	if got := s.read("home/.config/flakes/podman/storage.conf"); got != "mine" {
		t.Errorf("storage.conf = %q, want what was there", got)
	}
	s.want("init --user --force", cli.OK, "export ", "")
	if got := s.read("home/.config/flakes/podman/storage.conf"); !strings.Contains(got, "graphroot = \""+s.root+"/home/.config/flakes/podman/storage\"") {
		t.Errorf("storage.conf = %q", got)
	}
	s.put("registry.json", "") // is nothing to users
	s.want("podman --user register --container x --app R/home/bin/x", cli.OK, "", "")
	if got := s.read("home/.config/flakes/x.yaml"); !strings.Contains(got, "runas: me\n") {
		t.Errorf("x.yaml = %s", got)
	}
	s.want("podman --user pull --uri x", cli.OK, "", "")
	s.wantCalls("R/home/.config/flakes/podman/storage.conf|pull x\nR/home/.config/flakes/podman/storage.conf|image prune --force\n")
	s.want("list --user --format csv", cli.OK, "x,podman,,R/home/bin/x,R/home/.config/flakes/x.yaml\n", "")
	s.want("podman --user remove --app R/home/bin/x", cli.OK, "", "")
	s.put("home/.config/flakes.yml", "generic: {flakes_dir: 1}")
	s.want("list --user", cli.Failure, "", "flakes.yml:1: generic.flakes_dir: want a text")
}

func TestShow(t *testing.T) {
	s := newSystem(t)
	s.put("ps", `echo '[{"Id": "0123456789abcdef", "State": "running", "Image": "localhost/img:latest", "Labels": {"eos.flake": "a.b", "eos.instance": "one"}},
 {"Id": "f1", "State": "exited", "Image": "x", "Labels": {"eos.flake": "gone"}}]'`)
	s.put("registry/flakes/a.b.yaml", "container: {name: img, host_app_path: /a}")
	s.want("podman show --format csv", cli.OK, "a.b@one,root,0123456789abcdef,running,localhost/img:latest,R/share/flakes/a.b.yaml\ngone,root,f1,stopped,x,\n", "")
	s.wantCalls("|ps --all --no-trunc --filter label=eos.flake --format json\n")
	s.want("podman show", cli.OK, `Flake podman instances in the storage of root

NAME     USER  ID            STATUS   IMAGE                 CONFIG
-------  ----  ------------  -------  --------------------  -`, "")
	s.want("podman show", cli.OK, "\na.b@one  root  0123456789ab  running  localhost/img:latest  R/share/flakes/a.b.yaml\ngone     root  f1            stopped  x                     -\n", "")
	s.want("podman show --format json", cli.OK, `    "status": "stopped",
    "image": "x",
    "config": null
`, "")
	s.put("ps", "echo no\n")
	s.want("podman show", cli.Failure, "No instance(s) found", "read podman's list of containers")
	s.at.podman = []string{s.root + "/none"}
	s.want("podman show", cli.Failure, "No instance(s) found", "show flakes: run none: ")
}

// What is said on the command line is on the manual page.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/flake-ctl.8")
	if err != nil {
		t.Fatal(err)
	}
	s := newSystem(t)
	text := strings.ReplaceAll(string(page), `\-`, "-")
	for _, line := range []string{"podman pull", "podman load", "podman register", "podman show", "podman remove", "list", "clean", "init", "boot"} {
		_, help, _ := s.call(append(strings.Fields(line), "--help")...)
		flags := 0
		for word := range strings.FieldsSeq(help) {
			if name, ok := strings.CutPrefix(word, "--"); ok && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") == "" {
				flags++
				if !strings.Contains(text, "--"+name) {
					t.Errorf("flake-ctl.8 does not have --%s of %s", name, line)
				}
			}
		}
		if flags < 2 || !strings.Contains(text, line) {
			t.Errorf("flake-ctl %s: %d flags, on the page: %v", line, flags, strings.Contains(text, line))
		}
	}
}

func build(t *testing.T, dir string) {
	t.Helper()
	build := exec.Command("go", "build", "-o", dir, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
}

// bash completes commands, flags and what is registered.
func TestCompletion(t *testing.T) {
	toolstreetest.NeedProgram(t, "bash")
	bin := t.TempDir()
	build(t, bin)
	for line, want := range map[string]string{
		"flake-ctl ":                          "boot clean completion help init list podman",
		"flake-ctl podman re":                 "register remove",
		"flake-ctl podman register --res":     "--resume",
		"flake-ctl list --format ":            "csv json table",
		"flake-ctl podman load --oci " + bin:  bin,
		"flake-ctl podman register --target ": "",
	} {
		script := `. ../../os/flakes/usr/share/bash-completion/completions/flake-ctl
			COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); compopt() { :; }; _flake_ctl; printf '%s\n' "${COMPREPLY[@]}" | sort | paste -sd' '`
		words := strings.Split(line, " ")
		cmd := exec.Command("bash", append([]string{"-c", script, "bash"}, words...)...)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want && got != strings.Replace(want, "completion ", "", 1) {
			t.Errorf("completion of %q = %q, %v, want %q", line, got, err, want)
		}
	}
}
