package vm_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/vm/vmtest"
	"go.yaml.in/yaml/v3"
)

// lab holds what every scenario shares: the programs, the keys, and the images that
// `eos build` made. It lies in the cache, so that a second run builds nothing.
type lab struct {
	dir  string // ...
	bin  string
	keys string
	root string // of the source tree

	mu    sync.Mutex
	built map[string]*built
}

// built is one image.
type built struct {
	Raw, Slot string // paths
	Version   string
}

var shared = sync.OnceValues(newLab)

func theLab(t testing.TB) *lab {
	t.Helper()
	vmtest.Need(t)
	l, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newLab() (*lab, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("EOS_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(user, "eos")
	}
	l := &lab{dir: filepath.Join(cache, "test-vm"), root: root, built: map[string]*built{}}
	l.bin, l.keys = filepath.Join(l.dir, "bin"), filepath.Join(l.dir, "keys")
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"eos", "eos-init", "os-update", "os-update-daemon", "os-update-restricted", "flake-ctl", "flake-registry", "fleet", "podman-pilot"} {
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(l.bin, name), "./cmd/"+name)
		c.Dir, c.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(l.keys, "root.json")); err != nil {
		if err := os.RemoveAll(l.keys); err != nil {
			return nil, err
		}
		if _, err := l.eos("keys", "new"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// eos runs the host tool as its user would.
func (l *lab) eos(args ...string) (string, error) {
	c := exec.Command(filepath.Join(l.bin, "eos"), args...)
	c.Env = append(os.Environ(), "EOS_KEYS="+l.keys)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return string(out), fmt.Errorf("eos %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// edit changes an image description.
type edit func(spec map[string]any)

func set(value any, path ...string) edit {
	return func(spec map[string]any) {
		for _, key := range path[:len(path)-1] {
			sub, ok := spec[key].(map[string]any)
			if !ok {
				sub = map[string]any{}
				spec[key] = sub
			}
			spec = sub
		}
		spec[path[len(path)-1]] = value
	}
}

func addFile(file map[string]any) edit {
	return func(spec map[string]any) {
		files, _ := spec["files"].([]any)
		spec["files"] = append(files, file)
	}
}

// lean are units and modules that say nothing about what is tested here and cost an emulated
// machine a third of its boot. TestFieldImage and TestStatic boot the image as it is.
var (
	leanUnits = []string{
		"dev-mqueue.mount", "getty@tty1.service", "serial-getty@ttyS0.service",
		"systemd-network-generator.service", "systemd-networkd-persistent-storage.service",
		"systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-resolved.service",
		"systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service", "systemd-udev-load-credentials.service",
	}
	leanModules = []string{
		"aesni_intel", "crc32_pclmul", "crc32c_intel", "crct10dif_pclmul", "efi_pstore", "evdev", "ghash_clmulni_intel",
		"kvm", "kvm_amd", "kvm_intel", "serio_raw", "sha1_ssse3", "sha512_ssse3", "qemu_fw_cfg",
	}
)

// mask adds to the units that must not start.
func mask(names ...string) edit {
	return func(spec map[string]any) {
		units, _ := spec["units"].(map[string]any)
		list, _ := units["mask"].([]any)
		for _, name := range names {
			list = append(list, name)
		}
		set(list, "units", "mask")(spec)
	}
}

// build makes the image of images/minimal.yaml with the edits applied.
func (l *lab) build(t testing.TB, version string, edits ...edit) *built {
	t.Helper()
	return l.buildProfile(t, "AB", version, edits...)
}

func (l *lab) buildProfile(t testing.TB, profile, version string, edits ...edit) *built {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.built[version]; b != nil {
		return b
	}
	text, err := os.ReadFile(filepath.Join(l.root, "images/minimal.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := yaml.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	common := []edit{
		set(version, "version"),
		set([]any{"raw"}, "outputs"),
		set("90s", "boot", "watchdog"),
		set("300s", "boot", "health_timeout"),
		addFile(map[string]any{"path": "/etc/eos-test-version", "content": version + "\n"}),
		mask(leanUnits...),
		set("console=tty0 console=ttyS0 modprobe.blacklist="+strings.Join(leanModules, ","), "kernel", "command_line"),
	}
	for _, e := range append(common, edits...) {
		e(spec)
	}
	text, err = yaml.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(l.dir, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, version+".yaml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := l.eos("build", "-f", file, "-o", dir, "--profile", profile, "--dev"); err != nil {
		t.Fatal(err)
	}
	t.Logf("built %s in %v", version, time.Since(began).Round(100*time.Millisecond))
	stem := filepath.Join(dir, "minimal-"+version)
	b := &built{Raw: stem + ".raw", Slot: stem + ".slot", Version: version}
	for _, p := range []string{b.Raw, b.Slot} {
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
	}
	l.built[version] = b
	return b
}

// The images. Each differs from the first in what its name says.
func (l *lab) v1(t testing.TB) *built { return l.build(t, "1.0.0") }
func (l *lab) v2(t testing.TB) *built { return l.build(t, "2.0.0") }

// sick has a health check that does not pass.
func (l *lab) sick(t testing.TB) *built {
	return l.build(t, "2.1.0",
		set([]any{"test-health.service"}, "units", "enable"),
		set([]any{map[string]any{"name": "test-health.service", "content": "[Unit]\nBefore=boot-complete.target\n" +
			"[Service]\nType=oneshot\nExecStart=/bin/false\n[Install]\nRequiredBy=boot-complete.target\n"}}, "units", "add"))
}

// deaf never gets an address.
func (l *lab) deaf(t testing.TB) *built {
	return l.build(t, "2.3.0",
		mask("systemd-networkd.service", "systemd-networkd.socket"),
		set("60s", "boot", "health_timeout"))
}

// hung has an init that never gets anywhere.
func (l *lab) hung(t testing.TB) *built {
	return l.build(t, "2.2.0", addFile(map[string]any{
		"path": "/usr/sbin/init", "mode": "0755",
		"content": "#!/bin/sh\necho test: this init hangs >/dev/console\nexec sleep infinity\n",
	}))
}

// publish makes a repository of the images.
func (l *lab) publish(t testing.TB, images ...*built) string {
	t.Helper()
	repo := filepath.Join(t.TempDir(), "repo")
	for _, b := range images {
		if _, err := l.eos("publish", b.Slot, "--repo", repo); err != nil {
			t.Fatal(err)
		}
	}
	return repo
}

// server is `eos serve` on a port of its own.
type server struct {
	port int
	cmd  *exec.Cmd
	log  string
}

// URL is the server as a guest sees it.
func (s *server) URL() string { return fmt.Sprintf("http://10.0.2.2:%d", s.port) }

func (l *lab) serve(t testing.TB, repo string) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{port: listener.Addr().(*net.TCPAddr).Port, log: filepath.Join(t.TempDir(), "serve.log")}
	listener.Close()
	s.start(t, l, repo)
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *server) start(t testing.TB, l *lab, repo string) {
	t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(l.bin, "eos"), "serve", "--repo", repo, "--listen", fmt.Sprintf("127.0.0.1:%d", s.port))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("server does not listen: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *server) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}
