package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/flake/registration"
	"github.com/OSInside/eos/internal/flake/unit"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// newRoot is the root of an image that is being built: nothing is mounted, there is no
// podman, no registry and not even a passwd.
func newRoot(t *testing.T) string {
	t.Helper()
	toolstreetest.NeedRoot(t)
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(root+"/usr/bin", 0o755), os.MkdirAll(root+"/usr/share", 0o755), os.Symlink("../../var/lib/flakes", root+"/usr/share/flakes")); err != nil {
		t.Fatal(err)
	}
	build(t, root+"/usr/bin")
	return root
}

func TestChroot(t *testing.T) {
	root := newRoot(t)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("chroot", append([]string{root, "/usr/bin/flake-ctl"}, args...)...)
		cmd.Env = []string{}
		var out, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, stderr.String())
		}
		return out.String()
	}
	run("podman", "register", "--container", "core", "--app", "/usr/bin/core", "--target", "/sbin/init", "--opt", `\--privileged`, `\--net host`)
	r, err := flake.Find(root+flake.Dir, root+flake.ShippedDir, "core")
	if err != nil || !r.Shipped || !r.Root() || strings.Join(r.Container.Runtime.Podman, ",") != "--privileged,--net host" {
		t.Errorf("registered: %+v, %v", r, err)
	}
	if target, err := os.Readlink(root + "/usr/bin/core"); target != registration.Pilot {
		t.Errorf("the command is a link to %q, %v", target, err)
	}
	if got := run("list", "--format", "csv"); got != "core,podman,/sbin/init,/usr/bin/core,/usr/lib/eos/flakes/core.yaml\n" {
		t.Errorf("list = %q", got)
	}
	run("podman", "register", "--container", "web", "--app", "/usr/bin/webd", "--unit", "web")
	for link, want := range map[string]string{"web.service": "/usr/lib/eos/flakes/units/web.service", "multi-user.target.wants/web.service": "../web.service"} {
		if to, err := os.Readlink(root + "/usr/lib/systemd/system/" + link); to != want {
			t.Errorf("%s leads to %q, %v, want %s", link, to, err, want)
		}
	}
	if text, err := os.ReadFile(root + "/usr/lib/eos/flakes/units/web.service"); err != nil || unit.Owner(text) != "webd" {
		t.Errorf("web.service = %s, %v", text, err)
	}
	run("podman", "remove", "--app", "/usr/bin/webd")
	if left, err := filepath.Glob(root + "/usr/lib/systemd/system/*.service"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	run("podman", "remove", "--app", "/usr/bin/core")
	if left, err := filepath.Glob(root + "/usr/bin/c*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Lstat(root + "/var"); err == nil {
		t.Error("there is something where the registry will be")
	}
}

// TestKill kills the program itself at some moment: the flake is whole or not there.
func TestKill(t *testing.T) {
	root := newRoot(t)
	dir := root + flake.ShippedDir
	outcomes := map[string]int{}
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*500*time.Microsecond)
		_ = exec.CommandContext(ctx, "chroot", root, "/usr/bin/flake-ctl", "podman", "register", "--container", "img", "--app", "/opt/some/where/app").Run()
		cancel()
		all, err := flake.List(dir, "")
		_, linked := os.Lstat(root + "/opt/some/where/app")
		switch {
		case err == nil && len(all) == 1 && all[0].Err == nil && linked == nil:
			outcomes["whole"]++
		case err == nil && len(all) == 0:
			outcomes["nothing"]++
		default:
			t.Errorf("killed after %d: %v, %v, link: %v", i, all, err, linked)
		}
		// The next run finds its way.
		out, err := exec.Command("chroot", root, "/usr/bin/flake-ctl", "podman", "register", "--container", "img", "--app", "/opt/some/where/app", "--force").CombinedOutput()
		if err != nil {
			t.Fatalf("killed after %d, the next run: %v: %s", i, err, out)
		}
		if out, err := exec.Command("chroot", root, "/usr/bin/flake-ctl", "podman", "remove", "--app", "/opt/some/where/app").CombinedOutput(); err != nil {
			t.Fatalf("killed after %d, remove: %v: %s", i, err, out)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 { // the lock
			t.Fatalf("killed after %d: left %v, %v", i, left, err)
		}
	}
	if outcomes["nothing"] == 0 {
		t.Errorf("no kill was early enough: %v", outcomes)
	}
}
