package main

import (
	"os"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
)

func TestUnit(t *testing.T) {
	s := newSystem(t)
	register := "podman register --container img --app R/bin/app --unit "
	s.put("lib/systemd/ssh.service", "")
	s.want(register+"ssh", cli.Refused, "", "unit ssh.service: another unit has this name: R/lib/systemd/ssh.service\nhint: give the unit another name")
	s.want(register+"a/b", cli.Usage, "", "it cannot be that of a service")
	s.want(register+"web --resume", cli.Usage, "", "none of the others can be")
	s.want("podman register --container img --app R/bin/app --unit-notify", cli.Usage, "", "no unit that waits")
	s.want(register+"web.service --unit-notify", cli.OK, "", "the service web.service starts with the system; systemctl start web.service")
	s.wantCalls("systemctl|daemon-reload\n")
	if got := s.read("registry/flakes/units/web.service"); !strings.Contains(got, "ExecStart="+s.root+"/bin/app @service\n") {
		t.Errorf("unit = %s", got)
	}
	if got := s.read("registry/flakes/app.yaml"); !strings.Contains(got, "--sdnotify=container") {
		t.Errorf("registration = %s", got)
	}
	if to, err := os.Readlink(s.root + "/run/systemd/web.service"); to != s.at.dir+"/units/web.service" {
		t.Errorf("web.service -> %s, %v", to, err)
	}
	// A restart of the system: /run is empty.
	restart := func() {
		if err := os.RemoveAll(s.root + "/run"); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	s.put("registry/flakes/units/broken.service", "[Service]\n")
	s.want("boot", cli.Failure, "", "broken.service: it is of no flake")
	s.wantCalls("systemctl|daemon-reload\nsystemctl|start --no-block -- web.service\n")
	if err := os.Remove(s.root + "/registry/flakes/units/broken.service"); err != nil {
		t.Fatal(err)
	}
	s.want("boot", cli.OK, "", "")
	s.wantCalls("systemctl|start --no-block -- web.service\n")

	// Another name: the service of before is stopped.
	s.want(register+"other --force", cli.OK, "", "other.service")
	s.wantCalls("systemctl|stop -- web.service\nsystemctl|daemon-reload\n")
	s.put("stop", "echo it hangs >&2; exit 1\n")
	s.want("podman remove --app R/bin/app", cli.Failure, "", "stop unit other.service: ")
	s.want("podman remove --container img --force", cli.OK, "", "it hangs")
	s.wantCalls("systemctl|stop -- other.service\nsystemctl|stop -- other.service\nsystemctl|daemon-reload\n|image exists img\n|image rm --force img\n")
	if left, err := os.ReadDir(s.root + "/registry/flakes/units"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	restart()
	s.want("boot", cli.OK, "", "")
	s.put("registry.json", "")
	s.want("boot", cli.Degraded, "", "the registry is not there")
}
