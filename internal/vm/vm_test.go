package vm_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/toolstree"
	"github.com/OSInside/eos/internal/vm"
)

// needVM skips a test that starts machines unless they are asked for.
func needVM(t *testing.T) *toolstree.Tree {
	t.Helper()
	if os.Getenv("EOS_TEST_VM") == "" && os.Getenv("EOS_TEST_MUST_RUN") == "" && os.Getenv("CI") != "true" {
		t.Skip("starts virtual machines: set EOS_TEST_VM=1")
	}
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// newHost returns a host with an image that holds nothing to boot: the firmware's own shell
// is the guest, which is up in seconds and does all these tests need.
func newHost(t *testing.T) (vm.Host, string) {
	tree := needVM(t)
	dir := t.TempDir()
	// Removal must come after the cleanups that end machines.
	image := filepath.Join(dir, "blank, with a comma.raw")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cache, err := toolstree.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return vm.Host{Tree: tree, Machines: filepath.Join(dir, strings.Repeat("long,", 30)), Cache: cache}, image
}

// escapes are the firmware's colours and cursor moves.
var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// enter types slowly, as the firmware drops keys that come too fast.
func enter(t *testing.T, m *vm.Machine, keys string) {
	t.Helper()
	conn, err := m.Console(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, k := range keys {
		<-tick.C
		if _, err := conn.Write([]byte(string(k))); err != nil {
			t.Fatal(err)
		}
	}
}

func await(t *testing.T, m *vm.Machine, want string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		b, err := os.ReadFile(m.SerialLog())
		if err == nil && strings.Contains(escapes.ReplaceAllString(string(b), ""), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("serial console never said %q; it said %q", want, b)
		}
	}
}

func TestLifeCycle(t *testing.T) {
	host, image := newHost(t)
	ctx := context.Background()
	start := time.Now()
	m, err := host.Start(ctx, vm.Config{Name: "life", Image: image, Memory: 256 << 20, RegistrySize: 1 << 30, Bound: true, Note: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.PowerCut(ctx) })
	t.Logf("started after %v: %+v", time.Since(start), m.Info)
	await(t, m, "Shell>")
	t.Logf("shell after %v", time.Since(start))

	enter(t, m, "set greeting hel")
	saved := filepath.Join(filepath.Dir(image), "saved")
	start = time.Now()
	if err := m.Save(ctx, saved); err != nil {
		t.Fatal(err)
	}
	t.Logf("saved after %v", time.Since(start))
	for _, name := range []string{"one", "two"} {
		start = time.Now()
		m, err := host.Start(ctx, vm.Config{Name: name, From: saved, Bound: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("restored after %v", time.Since(start))
		enter(t, m, "lo\rset\r")
		await(t, m, "greeting = hello")
		t.Logf("answered after %v", time.Since(start))
		if err := m.PowerCut(ctx); err != nil {
			t.Fatal(err)
		}
		if m.Running() {
			t.Fatal("machine runs after a power cut")
		}
	}
}
