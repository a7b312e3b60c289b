package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/OSInside/eos/internal/imagestore/imagestoretest"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// labSpace makes a device of a private mount namespace, which stays as long as standard input
// does: its own /run, /etc and container store, flakes in D/flakes.
const labSpace = `
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "$D/scratch"
mount -t tmpfs -o mode=0755 tmpfs "$D/scratch"
cd "$D/scratch"
mkdir -p usr/bin usrwork etc etcwork
cp "$D/podman-pilot" usr/bin
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$D/scratch/usr,workdir=$D/scratch/usrwork" /usr
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$D/scratch/etc,workdir=$D/scratch/etcwork" /etc
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs /var/lib
mkdir -p /var/lib/containers /run/eos /usr/share/flakes /etc/containers
mkdir -p "$D/store"
mount --bind "$D/store" /var/lib/containers
mount --bind "$D/flakes" /usr/share/flakes
cp "$D/containers.conf" "$D/storage.conf" "$D/policy.json" "$D/registries.conf" /etc/containers
echo '{"state": "ok"}' > /run/eos/registry.json
podman load --quiet --input "$D/images.tar" >/dev/null
echo ready
cat > "$D/cat"
`

// lab is such a device. Flakes of it are called from outside, as processes of the test's own.
type lab struct {
	dir string
	pid int // of a process in the namespace
}

// labImages are the images of the lab: one with the application, and what is stacked on it.
func labImages(t *testing.T, app string) map[string]v1.Image {
	t.Helper()
	file := func(name, content string) imagestoretest.Member {
		return imagestoretest.Member{Header: tar.Header{Name: name, Mode: 0o755}, Content: content}
	}
	link := func(name, to string) imagestoretest.Member {
		return imagestoretest.Member{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
	}
	dir := func(name string) imagestoretest.Member {
		return imagestoretest.Member{Header: tar.Header{Name: name, Mode: 0o755}}
	}
	root := imagestoretest.Layer(t, dir("bin/"), file("bin/app", app), imagestoretest.Member{Header: tar.Header{Name: "bin/sleep", Mode: 0o755, Typeflag: tar.TypeLink, Linkname: "bin/app"}},
		dir("etc/"), file("etc/who", "base"), file("bin/plain", "no program"), imagestoretest.Member{Header: tar.Header{Name: "bin/closed", Mode: 0o644}, Content: "no program"}, dir("tmp/"), dir("data/"), link("lib", "usr/lib"), dir("usr/"), dir("usr/lib/"))
	image := func(layers ...[]byte) v1.Image { return imagestoretest.Image(t, layers...) }
	entry, err := mutate.Config(image(root), v1.Config{Entrypoint: []string{"/bin/app", "out=entry"}, Cmd: []string{"out=cmd"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]v1.Image{
		"app": image(root), "entry": entry,
		"delta":     image(imagestoretest.Layer(t, dir("etc/"), file("etc/delta", "delta"), file("etc/who", "delta"))),
		"one":       image(imagestoretest.Layer(t, dir("etc/"), file("etc/one", "one"), file("etc/who", "one"), file("etc/gone", "x"))),
		"two":       image(imagestoretest.Layer(t, dir("etc/"), file("etc/two", "two"), file("etc/who", "two"), file("etc/.wh.gone", ""))),
		"sleepless": image(imagestoretest.Layer(t, dir("bin/"), file("bin/app", app))),
	}
	for name, img := range moreImages(t, file, link, dir) {
		out[name] = img
	}
	return out
}

var (
	labOnce sync.Once
	theLab  *lab
	labStop = func() {}
)

func TestMain(m *testing.M) {
	status := m.Run()
	labStop()
	os.Exit(status)
}

// newLab returns the lab, of which all tests have the same.
func newLab(t *testing.T) *lab {
	t.Helper()
	toolstreetest.NeedProgram(t, "podman")
	toolstreetest.NeedProgram(t, "tini-static")
	toolstreetest.NeedRoot(t)
	labOnce.Do(func() { makeLab(t) })
	if theLab == nil {
		t.Fatal("there is no lab")
	}
	return theLab
}

func makeLab(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		t.Fatal(err)
	}
	labStop = func() { os.RemoveAll(dir) }
	build := func(out, pkg string) {
		t.Helper()
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", pkg, err, text)
		}
	}
	build("podman-pilot", ".")
	build("flake-ctl", "../flake-ctl")
	build("app", "./testdata/app")
	app, err := os.ReadFile(filepath.Join(dir, "app"))
	if err != nil {
		t.Fatal(err)
	}
	tags := map[name.Tag]v1.Image{}
	for n, img := range labImages(t, string(app)) {
		tag, err := name.NewTag("localhost/" + n + ":latest")
		if err != nil {
			t.Fatal(err)
		}
		tags[tag] = img
	}
	if err := tarball.MultiWriteToFile(filepath.Join(dir, "images.tar"), tags); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"containers.conf": "[containers]\ncgroups = \"disabled\"\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=20000:20000\"]\nenv = [\"LAB=" + dir + "\"]\n" +
			"[engine]\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\n",
		"storage.conf":    "[storage]\ndriver = \"overlay\"\ngraphroot = \"/var/lib/containers/storage\"\nrunroot = \"/run/containers/storage\"\n",
		"policy.json":     `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"registries.conf": "unqualified-search-registries = []\n",
		"flakes/x":        "", "bin/x": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755), os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", labSpace)
	cmd.Env = append(os.Environ(), "D="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &lab{dir: dir, pid: cmd.Process.Pid}
	labStop = func() {
		for range 20 { // podman starts what clears up
			left := l.processes()
			for _, p := range left {
				_ = syscall.Kill(p, syscall.SIGKILL)
			}
			if len(left) == 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		in.Close()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		labStop()
		t.Fatalf("the lab is not there: %q, %v", line, err)
	}
	theLab = l
}

// flake registers a flake, whose registration is the lines given, below container: but for
// those that begin at the left. Its name is unique if it is empty.
func (l *lab) flake(t *testing.T, name, image string, lines ...string) string {
	t.Helper()
	text := "container:\n  name: " + image + "\n  host_app_path: /usr/bin/" + "x" + "\n"
	if !slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "target_app_path") }) {
		text += "  target_app_path: /bin/app\n"
	}
	run := []string{"runas: root"}
	include := ""
	for _, line := range lines {
		key, _, _ := strings.Cut(line, ":")
		switch key {
		case "resume", "attach", "podman":
			run = append(run, line)
		case "include":
			include = line + "\n"
		default:
			text += "  " + line + "\n"
		}
	}
	if !slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "podman:") }) {
		run = append(run, "podman: [-i, --network=none]")
	}
	text = include + text + "  runtime: {" + strings.Join(run, ", ") + "}\n"
	file := filepath.Join(l.dir, "flakes", name+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	command := filepath.Join(l.dir, "bin", name)
	os.Remove(command)
	if err := os.Symlink("../podman-pilot", command); err != nil {
		t.Fatal(err)
	}
	return name
}

// in is what runs a program on the device, as the same process.
func (l *lab) in(argv ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--mount=/proc/" + strconv.Itoa(l.pid) + "/ns/mnt", "--"}, argv...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

// call is a call of a flake.
func (l *lab) call(name string, args ...string) *exec.Cmd {
	return l.in(append([]string{filepath.Join(l.dir, "bin", name)}, args...)...)
}

// result is what came of a call.
type result struct {
	status      int // as a shell has it
	out, stderr string
}

func statusOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		ws := exit.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
	if err != nil {
		return -1
	}
	return 0
}

// limit is how long a call may take, on a host with much else to do: who hangs does so for ever.
const limit = time.Minute

// finish waits for the end of a process, and for no longer than that.
func finish(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	timer := time.AfterFunc(limit, func() {
		t.Errorf("%.300q hangs", cmd.Args)
		for _, p := range theLab.processes() {
			t.Errorf("%.60s %s", commandLine(p), firstLines(status(p), 8))
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
	})
	defer timer.Stop()
	return statusOf(cmd.Wait())
}

func (l *lab) run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &stderr, limit
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return result{finish(t, cmd), out.String(), stderr.String()}
}

// want calls a flake and compares: standard error has to have stderr in it, and nothing if
// that is empty.
func (l *lab) want(t *testing.T, call string, status int, out, stderr string) {
	t.Helper()
	l.wantOf(t, l.call(strings.Fields(call)[0], strings.Fields(call)[1:]...), status, out, stderr)
}

func (l *lab) wantOf(t *testing.T, cmd *exec.Cmd, status int, out, stderr string) {
	t.Helper()
	got := l.run(t, cmd)
	if got.status != status || got.out != out || !strings.Contains(got.stderr, stderr) || stderr == "" && got.stderr != "" {
		t.Errorf("%.200q = %d, %.2000q, %.2000q; want %d, %.2000q, %q", cmd.Args[3:], got.status, got.out, got.stderr, status, out, stderr)
	}
}

// podman calls podman, and returns what it says.
func (l *lab) podman(t *testing.T, args ...string) string {
	t.Helper()
	got := l.run(t, l.in(append([]string{"podman"}, args...)...))
	if got.status != 0 {
		t.Errorf("podman %q = %d, %s%s", args, got.status, got.out, got.stderr)
	}
	return got.out
}

// processes are those of the device, and of its containers.
func (l *lab) processes() []int {
	space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", l.pid))
	mark := []byte("LAB=" + l.dir + "\x00")
	var out []int
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		in, _ := os.Readlink(dir + "/ns/mnt")
		env, _ := os.ReadFile(dir + "/environ")
		parent := strings.Contains(status(pid), fmt.Sprintf("PPid:\t%d\n", l.pid)) // the cat of the device
		if pid != l.pid && !parent && (in == space || bytes.Contains(env, mark)) && !strings.Contains(status(pid), "State:\tZ") {
			out = append(out, pid)
		}
	}
	return out
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(s, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], " ")
}

func status(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return string(text)
}

func commandLine(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(text), "\x00", " ")
}

// settled waits until nothing is at work on the device.
func (l *lab) settled(t *testing.T) {
	t.Helper()
	var left []int
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = l.processes(); len(left) == 0 {
			return
		}
	}
	for _, p := range left {
		t.Errorf("process %d is left: %s", p, commandLine(p))
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// nothingLeft checks that there is no process, container, or file but locks and caches.
func (l *lab) nothingLeft(t *testing.T) {
	t.Helper()
	l.settled(t)
	if got := l.podman(t, "ps", "--all", "--external", "--format", "{{.Names}} {{.Status}}"); got != "" {
		t.Errorf("containers are left: %s", got)
		l.podman(t, "rm", "--force", "--all", "--time=0")
	}
	for _, f := range l.files() {
		if !strings.HasSuffix(f, ".lock") && !strings.HasPrefix(f, "stores-") && !strings.HasPrefix(f, "systemfiles-") {
			t.Errorf("file %s is left", f)
			os.RemoveAll(l.path("/run/flakes/0/" + f))
		}
	}
}

// path is that of a file of the device, seen from outside.
func (l *lab) path(file string) string { return fmt.Sprintf("/proc/%d/root%s", l.pid, file) }

// files are those in the folder of the launchers.
func (l *lab) files() []string {
	entries, _ := os.ReadDir(l.path("/run/flakes/0"))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// clear ends containers that stay.
func (l *lab) clear(t *testing.T) {
	t.Helper()
	l.podman(t, "rm", "--force", "--all", "--time=0")
	for _, f := range l.files() {
		if strings.HasSuffix(f, ".cid") {
			os.Remove(l.path("/run/flakes/0/" + f))
		}
	}
	l.nothingLeft(t)
}

// started starts a call and waits until its application says that it is ready.
func (l *lab) started(t *testing.T, cmd *exec.Cmd) (out *bufio.Reader) {
	t.Helper()
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	if line != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("%q says %q, %v, %q", cmd.Args, line, err, rest)
	}
	return out
}
