package imagespec_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/OSInside/eos/internal/imagespec"
)

const flakeHead = `name: a
class: b
version: 1
packages: [podman, tini]
containers: [{name: lynx, aliases: [registry.example.com/l:1], archive: x.tar}, {name: base, archive: y.tar}]
`

func TestFlakes(t *testing.T) {
	text := flakeHead + `flakes:
  - app: /usr/bin/lynx
    container: localhost/lynx:latest
    base: base
    layers: ["registry.example.com/l:1"]
    target: /usr/bin/lynx
    options: ["-ti", --volume %HOME:/home]
    check_host_dependencies: true
    include_tar: [/usr/share/x.tar]
    include_path: [/etc/hosts]
  - {app: /usr/sbin/webd, container: lynx, runas: any, unit: web.service, unit_notify: true}
profiles:
  more: {flakes: {add: [{app: /usr/bin/other, container: lynx, resume: true}]}}
`
	want := []imagespec.Flake{
		{
			App: "/usr/bin/lynx", Container: "localhost/lynx:latest", Base: "base", Layers: []string{"registry.example.com/l:1"}, Target: "/usr/bin/lynx",
			Options: []string{"-ti", "--volume %HOME:/home"}, CheckHost: true, IncludeTar: []string{"/usr/share/x.tar"}, IncludePath: []string{"/etc/hosts"}, RunAs: "root",
		},
		{App: "/usr/sbin/webd", Container: "lynx", RunAs: "any", Unit: "web.service", UnitNotify: true},
	}
	s := parse(t, text, "")
	if diff := cmp.Diff(want, s.Flakes); diff != "" {
		t.Errorf("flakes (-want +got):\n%s", diff)
	}
	if o := s.Flakes[1].Registration(); o.Unit != "web" || !o.Notify || o.RunAs != "any" {
		t.Errorf("Registration = %+v", o)
	}
	if more := parse(t, text, "more").Flakes; len(more) != 3 || more[2].RunAs != "root" {
		t.Errorf("a profile that adds one has %+v", more)
	}
	if a, b := parse(t, flakeHead, ""), parse(t, flakeHead+"flakes: []\n", ""); a.Digest() != b.Digest() {
		t.Error("flakes: [] is not the same as none")
	}
}

// Faults of flakes; the text follows flakeHead, whose last line is line 5.
func TestBadFlakes(t *testing.T) {
	for _, c := range []struct{ flake, want string }{
		{"{container: lynx}", "d.yaml:7: flakes[0].app: is missing"},
		{"{app: /usr/bin/x}", "d.yaml:7: flakes[0].container: is missing"},
		{"{app: x, container: lynx}", `d.yaml:7: flakes[0].app: "x" is not absolute`},
		{"{app: /usr/share/flakes/bin/x, container: lynx}", "is no place for a command"},
		{"{app: /usr/bin/x, container: lnyx}", `d.yaml:7: flakes[0].container: "lnyx" is not a container of the image`},
		{"{app: /usr/bin/x, container: A}", "flakes[0].container: name of container image"},
		{"{app: /usr/bin/x, container: lynx,\n     base: none}", `d.yaml:8: flakes[0].base: "none" is not a container of the image`},
		{"{app: /usr/bin/x, container: lynx, base: base, layers: [none]}", `flakes[0].layers[0]: "none" is not a container`},
		{"{app: /usr/bin/x, container: lynx, layers: [base]}", "flakes[0].layers: need a base"},
		{"{app: /usr/bin/x, container: lynx, options: ['\\-ti']}", "flakes[0].options[0]: \"\\\\-ti\" begins with a backslash"},
		{"{app: /usr/bin/x, container: lynx, include_tar: [x.tar]}", `flakes[0].include_tar[0]: "x.tar" is not absolute`},
		{"{app: /usr/bin/x, container: lynx, include_path: [../x]}", `flakes[0].include_path[0]: "../x" is not absolute`},
		{"{app: /usr/bin/x, container: lynx, resume: true, attach: true}", "flakes[0].attach: and resume exclude each other"},
		{"{app: /usr/bin/x, container: lynx, resume: true, unit: x}", "flakes[0].unit: a container that stays is no service"},
		{"{app: /usr/bin/x, container: lynx, unit_notify: true}", "flakes[0].unit_notify: there is no unit"},
		{"{app: /usr/bin/x, container: lynx, unit: x@}", "flakes[0]: flake \"x\": it cannot be registered"},
		{"{app: /usr/bin/podman-pilot, container: lynx}", "name of the launcher"},
		{"{app: /usr/bin/x, container: lynx, target: x}", "is no absolute path"},
		{"{app: /usr/bin/x, contianer: lynx}", "did you mean container?"},
		{"{app: /usr/bin/x, container: lynx}\n  - {app: /usr/sbin/x, container: lynx}", `d.yaml:8: flakes[1].app: "x" is the name of two commands`},
		{"{app: /usr/bin/x, container: lynx, unit: u}\n  - {app: /usr/bin/y, container: lynx, unit: u.service}", `d.yaml:8: flakes[1].unit: "u.service" is the name of two units`},
		{"{app: /usr/bin/x, container: lynx, unit: u}\nunits: {add: [{name: u.service, content: x}]}", `flakes[0].unit: "u.service" is the name of two units`},
	} {
		text := flakeHead + "flakes:\n  - " + c.flake + "\n"
		if _, err := imagespec.Parse("d.yaml", []byte(text), ""); err == nil || !strings.Contains(problems(err), c.want) {
			t.Errorf("%s: %v, want %q", c.flake, err, c.want)
		}
	}
	for _, packages := range []string{"podman", "tini"} {
		text := strings.Replace(flakeHead, "packages: [podman, tini]", "packages: ["+packages+"]", 1) + "flakes: [{app: /usr/bin/x, container: lynx}]\n"
		if _, err := imagespec.Parse("d.yaml", []byte(text), ""); err == nil || !strings.Contains(err.Error(), "d.yaml:6: flakes: needs the packages ") {
			t.Errorf("with %s alone: %v", packages, err)
		}
	}
}
