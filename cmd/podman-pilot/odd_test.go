package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// Odd names and arguments, through flake-ctl and the launcher: what can be registered starts,
// what cannot says so in a line.
func TestOddNames(t *testing.T) {
	l := newLab(t)
	ctl := func(args ...string) result { return l.run(t, l.in(append([]string{l.dir + "/flake-ctl"}, args...)...)) }
	bin, err := os.MkdirTemp(l.dir, "odd")
	if err != nil {
		t.Fatal(err)
	}
	good := []string{
		"a.b", "a.b.c", "a b", "ü", "日本", "-x", "--help", "_", "a_b", "a__b", "A", "1", "@", "a@b", "%x", "a%remove", "$HOME", "`id`", "a;b", "a&b", "a|b", "a'b", `a"b`, `a\b`,
		"*", "?", "[a]", "a=b", "a:b", "a,b", "#x", "~", "!", "a+b", "(x)", "{x}", "<x>", "null", "true", "yes", "0x1f", "1.5", "1e3", "e\u0301", "\u200b",
		"x.yaml", "x.d", "x.lock", "con", "podman", "sh", strings.Repeat("n", 180),
	}
	for i, name := range good {
		got := ctl("podman", "register", "--container", "app", "--app", filepath.Join(bin, name), "--target", "/bin/app", "--opt", `\-i`, `\--network=none`)
		if got.status != 0 {
			t.Errorf("register %q = %+v", name, got)
			continue
		}
		// The command leads to where the system has the launcher.
		if to, err := os.Readlink(filepath.Join(bin, name)); err != nil || to != "/usr/bin/podman-pilot" {
			t.Errorf("%q leads to %s, %v", name, to, err)
		}
		if i%6 == 0 || !utf8.ValidString(name) || strings.ContainsAny(name, "@%\n") || len(name) > 100 {
			l.wantOf(t, l.in(filepath.Join(bin, name), "--", "args", name), 0, fmt.Sprintf("%q\n", []string{strings.ToValidUTF8(name, "\ufffd")}), "")
		}
		if got := ctl("podman", "remove", "--app", filepath.Join(bin, name)); got.status != 0 {
			t.Errorf("remove %q = %+v", name, got)
		}
	}
	for _, name := range []string{strings.Repeat("n", 181), strings.Repeat("n", 300), ".", "..", ".hidden", "a\nb", "a\tb", "\x7f", "\xff"} {
		if got := ctl("podman", "register", "--container", "app", "--app", bin+"/"+name); got.status == 0 || strings.Count(strings.TrimSpace(got.stderr), "\n") > 1 || got.stderr == "" {
			t.Errorf("register %q = %+v, want that it is refused", name, got)
		}
	}
	if left, err := os.ReadDir(bin); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	l.nothingLeft(t)
}

// Registrations that are broken are refused in a line that says where.
func TestOddRegistrations(t *testing.T) {
	l := newLab(t)
	const head = "container:\n  name: app\n  host_app_path: /usr/bin/odd\n  target_app_path: /bin/app\n"
	const run = "  runtime: {runas: root, podman: [-i, --network=none]}\n"
	l.flake(t, "odd", "app")
	file := filepath.Join(l.dir, "flakes", "odd.yaml")
	for _, c := range []struct{ text, want string }{
		{"", "container: is missing"}, {"\x00", "odd.yaml:"}, {"\xff\xfe", "odd.yaml:"}, {"- a\n", "odd.yaml:1"}, {"a\n", "odd.yaml:1"}, {"{", "odd.yaml:"}, {"container: {}", "container.name"},
		{"container: []", "want keys"}, {"container: 3", "want keys"}, {"container: ~\nvm: ~\n", "container: is missing"}, {head + "  name: b\n", "given twice"}, {head + "  x: y\n", "unknown key"},
		{head + "  layers: x\n", "want a list"}, {head + "  layers: [[x]]\n", "want words"}, {head + "  base_container: [x]\n", "want a text"}, {head + "  check_host_dependencies: maybe\n", "true or false"},
		{head + "  runtime: {runas: root, resume: 1}\n", "true or false"}, {head + "  runtime: []\n", "want keys"}, {head + "  runtime: {}\n", "runas: is missing"}, {head + run + "---\n" + head, "second document"},
		{head + run + "include: {tar: x}\n", "want a list"}, {head + run + "include: {zip: [x]}\n", "unknown key"}, {strings.Repeat("[", 3000), "odd.yaml:"}, {"a: &x [*x]\n", "odd.yaml:"}, {head + "\t\n  x: y", "odd.yaml:"},
		{strings.Replace(head, "app\n", "-v\n", 1) + run, "not the name of an image"}, {strings.Replace(head, "name: app", `name: "a\0b"`, 1) + run, "zero byte"},
		{strings.Replace(head, "name: app", "name: UPPER", 1) + run, "UPPER"}, {strings.Replace(head, "name: app", "name: 'a b'", 1) + run, "a b"}, {strings.Replace(head, "name: app", "name: '../../etc'", 1) + run, "../../etc"},
		{strings.Replace(head, "name: app", "name: "+strings.Repeat("a", 300), 1) + run, "aaa"}, {strings.Replace(head, "name: app", "name: 'app:no:tag'", 1) + run, "app:no:tag"}, {strings.Replace(head, "name: app", "name: 'app@sha256:0'", 1) + run, "app@sha256"},
		{head + "  base_container: localhost/none\n" + run, "none"}, {head + "  layers: [one]\n" + run, "layers need a base_container"}, {head + "  base_container: one\n  layers: [app]\n" + run, "there twice"},
		{head + run + "include: {tar: [/none]}\n", "/none"}, {head + run + "include: {path: [/none]}\n", "/none"}, {head + run + "include: {tar: [/etc]}\n", "include /etc"}, {head + run + "include: {tar: [/etc/passwd]}\n", "include /etc/passwd"}, {head + run + "include: {path: [/dev/null]}\n", "/dev/null"},
		{head + "  runtime: {runas: root, resume: true, attach: true}\n", "exclude each other"}, {strings.Replace(head, "/bin/app", "/", 1) + "  runtime: {runas: root, resume: true}\n", "resume needs"},
		{head + "  runtime: {runas: root, podman: [--volume]}\n", ""}, {head + "  runtime: {runas: root, podman: ['--name a/b']}\n", "a/b"}, {head + "  runtime: {runas: root, podman: ['']}\n", ""}, {head + "  runtime: {runas: root, podman: ['--user nobody:none']}\n", ""},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got := l.run(t, l.call("odd", "out=x"))
		if got.status != 125 && got.status != 126 || got.out != "" || !strings.Contains(got.stderr, c.want) || got.stderr == "" {
			t.Errorf("%.300q = %+v, want 125, %q", c.text, got, c.want)
		}
		if strings.Contains(got.stderr, "goroutine") || strings.Contains(got.stderr, "internal error") {
			t.Errorf("%.300q: %s", c.text, got.stderr)
		}
	}
	for _, text := range []string{
		"---\n" + head + run, "\ufeff" + head + run, strings.ReplaceAll(head+run, "\n", "\r\n"), head + "  runtime: {runas: root, podman: ['--env A=b c', '--env=D=\"q\"', --network=none]}\n", "{container: {name: app, host_app_path: /x, target_app_path: /bin/app, runtime: {runas: root, podman: [--network=none]}}}", head + run + "vm: ~\n# end",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		l.want(t, "odd out=x", 0, "x\n", "")
	}
	l.nothingLeft(t)
}

// Where launchers keep what they know is their user's alone, and has room.
func TestFolderOfLaunchers(t *testing.T) {
	l := newFlakes(t)
	l.settled(t)
	dir := l.path("/run/flakes/0")
	for _, c := range []struct {
		name, want string
		spoil      func() error
	}{
		{"a link", "not this user's alone", func() error { return os.Symlink("/tmp", dir) }},
		{"everybody's", "not this user's alone", func() error { _ = os.Mkdir(dir, 0o700); return os.Chmod(dir, 0o777) }},
		{"another's", "not this user's alone", func() error { _ = os.Mkdir(dir, 0o700); return os.Chown(dir, 1000, 1000) }},
		{"a file", "not this user's alone", func() error { return os.WriteFile(dir, nil, 0o600) }},
		{"below everybody's", "not root's alone", func() error { return os.Chmod(filepath.Dir(dir), 0o777) }},
	} {
		os.RemoveAll(dir)
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		l.want(t, "plain out=x", 125, "", c.want)
		os.RemoveAll(dir)
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A link in the place of a lock is not followed.
	l.want(t, "plain out=x", 0, "x\n", "")
	if err := os.Symlink("/run/victim", dir+"/flake.stays.lock"); err != nil {
		t.Fatal(err)
	}
	l.want(t, "stays out=x", 125, "", "too many levels of symbolic links")
	os.Remove(dir + "/flake.stays.lock")

	// There is no room.
	mount := func(line string) {
		t.Helper()
		if got := l.run(t, l.in("sh", "-ec", line)); got.status != 0 {
			t.Fatalf("%s: %+v", line, got)
		}
	}
	mount("mount -t tmpfs -o size=16k,mode=0700 tmpfs /run/flakes/0; cat /dev/zero > /run/flakes/0/full 2>/dev/null || true")
	for _, way := range ways {
		l.want(t, way+" out=x", 125, "", "no space left")
	}
	mount("umount /run/flakes/0")
	l.want(t, "plain out=x", 0, "x\n", "")
	l.want(t, "stays out=x", 0, "x\n", "")
	l.onlyStays(t)
	l.clear(t)
}

// A caller who has fewer rights has no say in what root starts.
func TestForeignCaller(t *testing.T) {
	l := newLab(t)
	l.flake(t, "expands", "app", `podman: [-i, --network=none, "--env A=%TERM", "--env B=%HOME"]`)
	l.flake(t, "path", "app", `podman: [-i, --network=none, "--volume %EVIL:/x"]`)
	for sudo, want := range map[string]int{"": 0, "0": 0, "1000": 125} {
		cmd := l.call("path", "show=/x")
		cmd.Env = append(cmd.Env, "EVIL=/etc", "SUDO_UID="+sudo)
		if got := l.run(t, cmd); got.status != want || (want == 125) != strings.Contains(got.stderr, "the caller may not set it") {
			t.Errorf("path with SUDO_UID=%s = %d, %s", sudo, got.status, got.stderr)
		}
	}
	cmd := l.call("expands", "env=A", "env=B")
	cmd.Env = []string{"SUDO_UID=1000", "PATH=/nowhere", "TERM=vt102", "HOME=/home/evil", "CONTAINERS_CONF=/none", "CONTAINERS_STORAGE_CONF=/none", "CONTAINER_HOST=tcp://none", "TMPDIR=/none", "XDG_RUNTIME_DIR=/none"}
	l.wantOf(t, cmd, 0, "vt102\n/root\n", "")
	cmd = l.call("expands", "out=x")
	cmd.Env = []string{"SUDO_UID=1000", "TERM=a b --privileged"}
	if got := l.run(t, cmd); got.status != 125 {
		t.Errorf("a variable that is more than a word = %+v", got)
	}
	l.nothingLeft(t)
}

// A registry that is dead does not hold a call up for ever, and only what is not there yet needs it.
func TestDeadRegistry(t *testing.T) {
	l := newLab(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := silent.Addr().String()
	silent.Close()
	l.flake(t, "gone", "delta", "base_container: "+gone+"/base:1")
	l.want(t, "gone out=x", 125, "", "the registry does not answer\nhint: is the network up")
	l.podman(t, "tag", "app", gone+"/app:1")
	l.flake(t, "local", gone+"/app:1")
	l.want(t, "local out=x", 0, "x\n", "")
	l.podman(t, "untag", "app", gone+"/app:1")
	l.nothingLeft(t)
}

// A container that stays may end, or be removed, at any moment.
func TestStays(t *testing.T) {
	l := newFlakes(t)
	l.want(t, "stays out=x", 0, "x\n", "")
	l.podman(t, "stop", "--time=0", "flake.stays")
	l.want(t, "stays out=again", 0, "again\n", "")
	l.podman(t, "kill", "--signal=KILL", "flake.stays")
	l.want(t, "stays out=again", 0, "again\n", "")
	for _, p := range l.processes() { // all at once, and nobody tells podman
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	l.want(t, "stays out=again", 0, "again\n", "is made anew")
	l.podman(t, "rm", "--force", "--time=0", "flake.stays")
	l.want(t, "stays out=new", 0, "new\n", "")
	for i := range rounds(6) {
		done := make(chan result)
		go func() { done <- l.run(t, l.in("podman", "rm", "--force", "--time=0", "flake.stays")) }()
		time.Sleep(time.Duration(i) * 20 * time.Millisecond)
		got := l.run(t, l.call("stays", "out=x"))
		if (got.status != 0 || got.out != "x\n") && got.status != 137 {
			t.Errorf("while its container is removed: %+v", got)
		}
		<-done
		l.want(t, "stays out=after", 0, "after\n", "")
	}
	if n := strings.Count(l.podman(t, "ps", "--all", "--quiet"), "\n"); n != 1 {
		t.Errorf("%d containers, want 1", n)
	}
	l.want(t, "stays %remove exit=4", 4, "", "")
	l.nothingLeft(t)
}

// An attach flake is one application, which more than one call may see.
func TestAttach(t *testing.T) {
	l := newLab(t)
	l.flake(t, "joined", "app", "attach: true")
	cmd := l.call("joined", "catch=2", "exit=6")
	out := l.started(t, cmd)
	_ = cmd.Process.Signal(syscall.SIGHUP) // at once: podman may not be ready to hand it on
	if line, _ := out.ReadString('\n'); line != "1\n" {
		t.Errorf("of SIGHUP it says %q", line)
	}
	second := l.call("joined", "other")
	second.Stderr = nil
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if n := strings.Count(l.podman(t, "ps", "--quiet"), "\n"); n != 1 {
		t.Errorf("%d containers run, want 1", n)
	}
	_ = cmd.Process.Signal(syscall.SIGUSR1)
	if line, _ := out.ReadString('\n'); line != "10\n" {
		t.Errorf("of SIGUSR1 it says %q", line)
	}
	if got := finish(t, cmd); got != 6 {
		t.Errorf("the first ends with %d, want 6", got)
	}
	if got := finish(t, second); got != 6 && got != 0 { // podman does not tell a second one
		t.Errorf("the second ends with %d, want 6", got)
	}
	// It stays when the launcher is killed, and when it has ended.
	cmd = l.call("joined", "%remove")
	_ = l.started(t, cmd)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if got := l.podman(t, "ps", "--format", "{{.Names}}"); got != "flake.joined\n" {
		t.Errorf("containers: %q", got)
	}
	l.clear(t)
}
