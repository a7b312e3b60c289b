package main

import (
	"os"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/assemble"
)

// someContainers is what podman ps prints.
const someContainers = `echo '[
 {"Id": "f1", "State": "exited", "Names": ["flake.app_.1"], "Labels": {"eos.flake": "app"}},
 {"Id": "f2", "State": "exited", "Names": ["flake.app"], "Labels": {"eos.flake": "app", "eos.flake.stays": "true"}},
 {"Id": "f3", "State": "storage", "Names": ["flake.app_.3"], "Labels": null},
 {"Id": "f4", "State": "exited", "Names": ["mine"], "Labels": null}]'
`

const psAll = "|ps --all --external --no-trunc --format json\n"

func TestClean(t *testing.T) {
	s := newSystem(t)
	s.put("ps", someContainers)
	s.want("clean", cli.OK, "", "")
	s.want("clean --json", cli.OK, "{\n  \"containers\": [],\n  \"folders\": []\n}\n", "")
	if calls := s.read("calls"); !strings.Contains(calls, "no such file") {
		t.Errorf("podman was called: %s", calls)
	}
	s.put("store/overlay-containers/volatile-containers.json", "[{}]")
	s.put("store/tmp/flake.unfinished-1/x", "")
	s.put("registry/flakes/.cut.journal", "{")
	s.want("clean", cli.OK, "removed container flake.app_.1\nremoved container flake.app_.3\nremoved folder R/store/tmp/flake.unfinished-1\n", "")
	s.wantCalls(psAll + "|rm --force --time=0 f1\n|rm --force --time=0 f3\n")
	if got := s.read("registry/flakes/.cut.journal"); !strings.Contains(got, "no such file") {
		t.Errorf("a registration that was cut off: %s", got)
	}
	s.want("clean --json", cli.OK, `    {
      "id": "f1",
      "name": "flake.app_.1",
      "flake": "app",
      "state": "exited"
    },
`, "")
	s.put("rm", "echo Error: no >&2; exit 2\n")
	s.want("clean", cli.Failure, "", "remove container flake.app_.1: run podman: exit status 2: Error: no")
	os.Remove(s.root + "/calls")

	// At the start of the system it keeps no service from its start.
	s.put("lib/systemd/keep", "")
	s.want("podman register --container img --app R/bin/app --unit app", cli.OK, "", "app.service")
	os.Remove(s.root + "/calls")
	s.want("boot", cli.Failure, "", "remove container flake.app_.3")
	if got := s.read("calls"); !strings.HasSuffix(got, "systemctl|start --no-block -- app.service\n") {
		t.Errorf("calls: %s", got)
	}

	// What is in memory is cleared up as well, with or without a registry.
	os.Remove(s.root + "/rm")
	os.Remove(s.root + "/calls")
	s.put("memory/overlay-containers/containers.json", "[{}]")
	s.put("registry.json", "")
	s.want("clean", cli.Degraded, "", "the registry is not there")
	memory := "|" + strings.Join(flake.InMemory(), " ")
	s.wantCalls(memory + psAll[:0] + " " + psAll[1:])
	s.want("clean --nonsense", cli.Usage, "", "unknown flag")
}

func TestForget(t *testing.T) {
	s := newSystem(t)
	s.put("ps", someContainers)
	s.put("store/overlay-containers/containers.json", "[{}]")
	for _, name := range []string{"app", "app2"} {
		s.want("podman register --container img --base b --app R/bin/"+name+" --resume", cli.OK, "", "")
	}
	repository := assemble.Repository(&flake.Registration{Container: flake.Container{Name: "img", Base: "b"}})
	s.put("store/overlay-images/images.json", `[{"id": "1", "names": ["`+repository+`:k1", "localhost/img:latest"]}, {"id": "2", "names": ["`+repository+`:k2", "`+repository+`0:k1"]}]`)
	s.want("podman register --container img --base b --app R/bin/app --resume --force", cli.OK, "", "container flake.app of the flake before stays, and is entered; app %remove starts afresh\n")
	s.want("podman register --container img --base b --app R/bin/app --force", cli.OK, "", "podman rm --force flake.app removes it\n")
	s.wantCalls(psAll + psAll)
	s.put("run/flakes/flake.app.cid", "")
	s.want("podman remove --app R/bin/app", cli.OK, "", "") // app2 has the same images
	s.wantCalls(psAll + "|rm --force f1\n|rm --force f2\n")
	if got := s.read("run/flakes/flake.app.cid"); !strings.Contains(got, "no such file") {
		t.Errorf("app.cid: %s", got)
	}
	s.put("image", "[ $2 != rm ] || { echo Error: in use >&2; exit 2; }\n")
	s.want("podman remove --app R/bin/app2", cli.Failure, "", "remove flake app2: it is taken out; remove what is left of it: remove images: run podman: exit status 2: Error: in use")
	s.wantCalls(psAll + "|image rm " + repository + ":k1 " + repository + ":k2\n")

	// Where its folder is not known, podman is asked.
	s.put("storage.conf", "[storage]\ngraphroot = ?\n")
	s.put("ps", "echo '[]'\n")
	s.put("image", `[ $2 != ls ] || echo `+repository+":k3\n")
	ofImages := psAll + "|image ls --filter reference=" + repository + " --format {{.Repository}}:{{.Tag}}\n|image rm " + repository + ":k3\n"
	s.want("podman register --container img --base b --app R/bin/app", cli.OK, "", "")
	s.wantCalls(ofImages) // what is left of app2, once more
	s.want("podman remove --app R/bin/app", cli.OK, "", "")
	s.wantCalls(ofImages)
	s.put("ps", "exit 125\n")
	s.want("podman register --container img --app R/bin/app", cli.OK, "", "")
	s.want("podman remove --app R/bin/app", cli.Failure, "", "remove flake app: it is taken out; remove what is left of it: look for containers: run podman: exit status 125")
	s.want("podman register --container img --app R/bin/other", cli.OK, "", "clear up after an earlier run, for flake app: it is taken out; remove what is left of it")
	s.want("list --format csv", cli.OK, "", "")
}
