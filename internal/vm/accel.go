package vm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/renameio/v2"

	"github.com/OSInside/eos/internal/command"
)

// Accel says what executes the guest.
type Accel string

// The ways to execute a guest. Auto is KVM where a guest gets somewhere with it, else TCG.
const (
	Auto Accel = "auto"
	KVM  Accel = "kvm"
	TCG  Accel = "tcg"
)

// ParseAccel returns the Accel of that name.
func ParseAccel(s string) (Accel, error) {
	switch a := Accel(s); a {
	case Auto, KVM, TCG:
		return a, nil
	}
	return "", fmt.Errorf("parse accelerator %q: want auto, kvm or tcg", s)
}

// progress is what the firmware prints when it has come as far as to look for something to
// boot: long mode, paging, timers and device access all work by then.
const progress = "BdsDxe"

// probeTime is how long the firmware may take to get there. With a KVM that works it needs
// about a second, software emulation takes three.
const probeTime = 10 * time.Second

// verdict is what a probe found out, kept until the host is booted again or the tools change.
type verdict struct {
	Boot  string `json:"boot"`  // the host's boot id
	Tools string `json:"tools"` // the tree QEMU comes from
	KVM   bool   `json:"kvm"`
	Why   string `json:"why,omitempty"` // why not
}

// Choose turns Auto into KVM or TCG and says why it is not KVM. That /dev/kvm is there
// proves little: on some hosts it opens and makes machines in which no guest gets through its
// first second. So the firmware is started once and has to print something.
func (h Host) Choose(ctx context.Context, want Accel) (use Accel, why string, err error) {
	if want != Auto {
		return want, "", nil
	}
	kvm := cmp.Or(h.kvm, "/dev/kvm")
	f, err := os.OpenFile(kvm, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return TCG, "this host has no " + kvm, nil
		}
		return TCG, "it does not open: " + err.Error(), nil
	}
	f.Close()

	now := verdict{Boot: bootID(), Tools: h.Tree.String()}
	path := filepath.Join(h.Cache, "accel.json")
	if v, ok := cached(path, now); ok {
		return v.result()
	}
	now.KVM, now.Why = h.probe(ctx)
	if ctx.Err() != nil {
		return "", "", context.Cause(ctx)
	}
	// The next run asks again when this cannot be kept, so that is no reason to fail.
	if b, err := json.Marshal(now); err == nil && os.MkdirAll(h.Cache, 0o755) == nil {
		_ = renameio.WriteFile(path, append(b, '\n'), 0o644)
	}
	return now.result()
}

func (v verdict) result() (Accel, string, error) {
	if v.KVM {
		return KVM, "", nil
	}
	return TCG, v.Why, nil
}

// cached returns the verdict in the file at path if it is about the same host and tools.
func cached(path string, now verdict) (verdict, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return verdict{}, false
	}
	var v verdict
	if json.Unmarshal(b, &v) != nil || v.Boot != now.Boot || v.Tools != now.Tools || now.Boot == "" {
		return verdict{}, false
	}
	return v, true
}

// bootID names the boot of the host; empty when it has no name.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// probe runs the firmware alone under KVM until it makes progress or the time is over.
func (h Host) probe(ctx context.Context) (ok bool, why string) {
	limit, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	seen := &watch{want: []byte(progress), found: cancel}
	c := h.Tree.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "256M",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmwareCode,
		"-drive", "if=pflash,unit=1,format=raw,snapshot=on,file="+firmwareVars,
		"-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out")
	c.Stdout = seen
	err := command.Run(limit, c)
	var failed *command.Error
	switch {
	case seen.done():
		return true, ""
	case errors.As(err, &failed):
		return false, failed.Error()
	default:
		return false, fmt.Sprintf("a guest under /dev/kvm made no progress in %v", probeTime)
	}
}

// watch is a writer that calls found when want has gone by.
type watch struct {
	want  []byte
	tail  []byte
	seen  bool
	found func()
}

func (w *watch) Write(p []byte) (int, error) {
	if w.seen {
		return len(p), nil
	}
	w.tail = append(w.tail, p...)
	if bytes.Contains(w.tail, w.want) {
		w.seen = true
		w.found()
	}
	if keep := len(w.want) - 1; len(w.tail) > keep {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-keep:]...)
	}
	return len(p), nil
}

// done is to be called when the writer's program has ended.
func (w *watch) done() bool { return w.seen }
