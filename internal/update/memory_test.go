package update

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/key"
)

// helperEnv makes the test binary be a program that applies an update.
const helperEnv = "EOS_TEST_APPLY"

// helperConfig is what that program is told.
type helperConfig struct {
	Device    device.Device
	ESP       string
	Server    string
	Root      string
	Keys      string
	Lock, Tmp string
}

func TestMain(m *testing.M) {
	if s := os.Getenv(helperEnv); s != "" {
		os.Exit(helper(s))
	}
	os.Exit(m.Run())
}

// helper applies in a process of its own, as os-update does, and prints the
// result.
func helper(config string) int {
	LimitMemory()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var c helperConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return fail(err)
	}
	pub, err := key.LoadPublic(c.Keys + "/image.pub")
	if err != nil {
		return fail(err)
	}
	return cli.Run("helper", func(ctx context.Context, env *cli.Env) error {
		m := &fakeMachine{dev: &c.Device, esp: c.ESP, slots: c.Device.Slots, now: epoch, opened: map[bootstate.Slot]int{}}
		u := &Updater{
			Machine: m, Accepted: []ed25519.PublicKey{pub.Key}, Progress: cli.NoProgress(), Lock: c.Lock,
			Config: Config{Server: c.Server, Name: "eos"}, Trust: Trust{Root: c.Root, Cache: c.Tmp},
		}
		res, err := u.Apply(ctx, ApplyOptions{})
		if err != nil {
			return err
		}
		return cli.PrintJSON(env.Stdout, res)
	})
}

// TestMemoryIsBounded applies an image of 256 MiB, most of which has to be
// fetched, in a process of its own and looks at its largest resident memory.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a gigabyte")
	}
	const size = 256 << 20
	l := newLab(t)
	big := func(s *spec) { s.size = size - 8192 }
	for _, x := range []bootstate.Slot{"a", "b"} {
		l.must(os.Truncate(l.machine.slots[x], size+size/16))
	}
	l.write("a", l.build("1", big))
	l.installKernel("a")
	l.publish("2", big)
	config, err := json.Marshal(helperConfig{
		Device: *l.machine.dev, ESP: l.machine.esp, Server: l.server.URL, Root: l.u.Trust.Root,
		Keys: l.keys, Lock: l.u.Lock, Tmp: t.TempDir(),
	})
	l.must(err)
	exe, err := os.Executable()
	l.must(err)
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), helperEnv+"="+string(config))
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("apply: %v: %s", err, stderr.String())
	}
	var res ApplyResult
	l.must(json.Unmarshal(out.Bytes(), &res))
	t.Logf("fetched %d MiB, copied %d MiB, peak memory %.1f MiB", res.FetchedBytes>>20, res.ReusedBytes>>20, float64(res.PeakMemory)/(1<<20))
	if res.FetchedBytes < 100<<20 || res.ReusedBytes < 50<<20 {
		t.Errorf("Apply = %+v, want most of it fetched", res)
	}
	if res.PeakMemory == 0 || res.PeakMemory > 64<<20 {
		t.Errorf("peak memory is %d bytes, want at most 64 MiB", res.PeakMemory)
	}
	l.verify("b")
}
