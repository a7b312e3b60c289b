package update

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/kexec"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
	"github.com/google/go-cmp/cmp"
)

var good = bootstate.SlotState{Status: bootstate.Committed, Tries: bootstate.Tries, Good: true}

func TestUpdateAndRollBack(t *testing.T) {
	l := newLab(t)
	l.publish("1")
	l.publish("2")

	check, err := l.u.Check(t.Context(), Choice{})
	l.must(err)
	if !check.Update || check.Installed.Version != "1" || check.Available.Version != "2" || check.Traffic.Bytes == 0 || check.Traffic.Bytes > 32<<10 {
		t.Errorf("Check = %+v, want an update from 1 to 2 for some kilobytes", check)
	}

	res := l.apply(ApplyOptions{})
	if res.Outcome != OutcomeActivating || !res.Wrote || res.Resumed || res.Slot != "b" || res.Activation != "kexec" {
		t.Errorf("Apply = %+v, want slot b to be activated", res)
	}
	if res.ReusedBytes < 200_000 || res.FetchedBytes < 400_000 || res.KeptBytes+res.ReusedBytes+res.FetchedBytes < res.TotalBytes {
		t.Errorf("Apply kept %d, reused %d, fetched %d of %d", res.KeptBytes, res.ReusedBytes, res.FetchedBytes, res.TotalBytes)
	}
	want := "console=ttyS0 quiet eos.slot=b eos.disk=0fc63daf-8483-4772-8e79-3d69d8477de4 COMMIT_UPDATE"
	if l.machine.cmdline != want || !l.machine.jumped {
		t.Errorf("loaded %q, jumped %v, want %q", l.machine.cmdline, l.machine.jumped, want)
	}
	if s := l.state(); s.Default != "a" || s.A != good || s.B.Status != bootstate.Trial || s.Once != "" {
		t.Errorf("state in the trial = %+v", s)
	}

	l.kexec()
	if c := l.commit(); c.Outcome != "committed" || c.Slot != "b" || c.Version != "2" {
		t.Errorf("Commit = %+v, want slot b committed", c)
	}
	if s := l.state(); s.Default != "b" || s.A != good || s.B != good {
		t.Errorf("state after commit = %+v", s)
	}
	if c := l.commit(); c.Outcome != "unchanged" {
		t.Errorf("second Commit = %+v, want unchanged", c)
	}
	l.powerOn()
	if l.machine.dev.Slot != "b" {
		t.Errorf("a cold start runs slot %s, want b", l.machine.dev.Slot)
	}
	if c := l.commit(); c.Outcome != "good" {
		t.Errorf("Commit after a cold start = %+v, want good", c)
	}
	if res := l.apply(ApplyOptions{}); res.Outcome != OutcomeUpToDate {
		t.Errorf("Apply of what runs = %+v, want up to date", res)
	}

	back, err := l.u.Rollback(t.Context(), false)
	l.must(err)
	if back.Slot != "a" || back.Version != "1" || l.machine.rebooted {
		t.Errorf("Rollback = %+v, rebooted %v, want slot a and no reboot", back, l.machine.rebooted)
	}
	l.powerOn()
	if l.machine.dev.Slot != "a" {
		t.Errorf("after the rollback slot %s runs, want a", l.machine.dev.Slot)
	}
	l.commit()
	// What was rolled back from does not come again by itself.
	_, err = l.u.Apply(t.Context(), ApplyOptions{})
	wantCode(t, "Apply after a rollback", err, cli.Refused, "failed on this device before")
	res = l.apply(ApplyOptions{Choice: Choice{Version: "2"}})
	if res.FetchedBytes != 0 && res.KeptBytes < res.TotalBytes/2 {
		t.Errorf("applying what the slot holds fetched %d bytes", res.FetchedBytes)
	}
}

func TestActivateByReboot(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.u.Config.Activate = ActivateReboot
	l.machine.loadErr = errors.New("kexec must not be used")
	res := l.apply(ApplyOptions{})
	if res.Activation != "reboot" || !l.machine.rebooted || l.machine.forced || l.machine.jumped {
		t.Errorf("Apply = %+v, rebooted %v, want a clean reboot", res, l.machine.rebooted)
	}
	if s := l.state(); s.Once != "b" || s.Default != "a" {
		t.Errorf("state = %+v, want b once", s)
	}
	l.powerOn()
	if l.machine.dev.Slot != "b" || !l.machine.dev.Trial {
		t.Fatalf("slot %s runs, trial %v, want a trial of b", l.machine.dev.Slot, l.machine.dev.Trial)
	}
	l.commit()
	l.powerOn()
	if l.machine.dev.Slot != "b" {
		t.Errorf("slot %s runs after the commit, want b", l.machine.dev.Slot)
	}
}

func TestDownloadOnly(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	var seen *ApplyResult
	res := l.apply(ApplyOptions{DownloadOnly: true, Before: func(r *ApplyResult) error { seen = r; return nil }})
	if res.Outcome != OutcomeWritten || seen != res || l.machine.cmdline != "" || l.state().B.Status != bootstate.Written {
		t.Errorf("Apply(download only) = %+v, loaded %q, state %+v", res, l.machine.cmdline, l.state())
	}
	l.powerOn()
	l.commit()
	l.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "blob") {
				t.Errorf("fetched %s again", r.URL.Path)
			}
			h.ServeHTTP(w, r)
		})
	}
	res = l.apply(ApplyOptions{})
	if res.Outcome != OutcomeActivating || res.Wrote {
		t.Errorf("Apply of a written image = %+v, want activation without writing", res)
	}
	l.kexec()
	l.commit()
}

func TestWrittenImageThatRottedIsWrittenAgain(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{DownloadOnly: true})
	l.flip("b", 500_000)
	res := l.apply(ApplyOptions{})
	if !res.Wrote || res.KeptBytes < res.TotalBytes/2 || res.FetchedBytes == 0 {
		t.Errorf("Apply = %+v, want it to repair the slot", res)
	}
	l.kexec()
	l.commit()
}

// flip changes one bit of a slot.
func (l *lab) flip(x bootstate.Slot, at int64) {
	l.t.Helper()
	f, err := os.OpenFile(l.machine.slots[x], os.O_RDWR, 0)
	l.must(err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	l.must(err)
	b[0] ^= 4
	_, err = f.WriteAt(b, at)
	l.must(errors.Join(err, f.Close()))
}

func TestDryRunWritesNothing(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	before := l.snapshot()
	l.machine.onESP = func(write bool) {
		if write {
			t.Error("dry run mounted the ESP for writing")
		}
	}
	res := l.apply(ApplyOptions{DryRun: true})
	if res.Outcome != OutcomePlanned || len(res.Plan) == 0 || res.FetchedBytes == 0 || res.ReusedBytes == 0 {
		t.Errorf("Apply(dry run) = %+v, want a plan", res)
	}
	if diff := cmp.Diff(before, l.snapshot()); diff != "" || l.machine.opened["b"] != 0 {
		t.Errorf("dry run changed the device: %s", diff)
	}
	l.machine.onESP = nil
	real := l.apply(ApplyOptions{DownloadOnly: true})
	// The first chunk is made empty before writing, so it may be fetched too.
	if d := real.FetchedBytes - res.FetchedBytes; d < 0 || d > 256<<10 {
		t.Errorf("fetched %d bytes, the dry run said %d", real.FetchedBytes, res.FetchedBytes)
	}
}

// snapshot is everything on the device.
func (l *lab) snapshot() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	for _, p := range []string{l.machine.slots["a"], l.machine.slots["b"], l.machine.esp + "/EFI/eos/bootstate", l.machine.esp + "/EFI/eos/a.efi"} {
		b, err := os.ReadFile(p)
		l.must(err)
		out[p] = string(b)
	}
	return out
}

func wantCode(t *testing.T, what string, err error, code cli.Code, text string) {
	t.Helper()
	var e *cli.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s = %v (%+v), want %s with %q", what, err, e, code, text)
	}
}

func TestApplyRefusesBeforeTheFirstByte(t *testing.T) {
	for _, c := range []struct {
		name string
		code cli.Code
		text string
		opts ApplyOptions
		prep func(l *lab)
	}{
		{"older", cli.Refused, "version 0.9 is older than 1", ApplyOptions{}, func(l *lab) { l.publish("0.9") }},
		{"older, named", cli.Refused, "version 0.9 is older than 1", ApplyOptions{Choice: Choice{Version: "0.9"}}, func(l *lab) { l.publish("0.9"); l.publish("2") }},
		{"older by Debian's rules", cli.Refused, "is older", ApplyOptions{}, func(l *lab) { l.publish("1~rc1") }},
		{"no such version", cli.Refused, "version 3 of eos is not in the repository", ApplyOptions{Choice: Choice{Version: "3"}}, func(l *lab) { l.publish("2") }},
		{"nothing published", cli.Unreachable, "is it a repository?", ApplyOptions{}, func(l *lab) {}},
		{"other class", cli.Refused, "published for class kiosk (amd64), this device is of class qemu", ApplyOptions{}, func(l *lab) {
			l.publish("2", func(s *spec) { s.m.Class = "kiosk" })
		}},
		{"other architecture", cli.Refused, "published for class qemu (arm64)", ApplyOptions{}, func(l *lab) {
			l.publish("2", func(s *spec) { s.m.Arch = "arm64" })
		}},
		{"other name", cli.Refused, "image eos is not in the repository", ApplyOptions{}, func(l *lab) {
			l.publish("2", func(s *spec) { s.m.Name = "other" })
		}},
		{"larger than the slot", cli.Refused, "is larger than slot b: ", ApplyOptions{}, func(l *lab) {
			l.publish("2", func(s *spec) { s.size = 3 << 20 })
		}},
		{"wrong key", cli.Unverified, "signed by no accepted key", ApplyOptions{}, func(l *lab) {
			k := l.private("stranger")
			l.opts.Accepted = append(l.opts.Accepted, k.Public().(ed25519.PublicKey))
			l.publish("2", func(s *spec) { s.keys = append(s.keys[:0:0], k) })
		}},
		{"expired", cli.Refused, "expired", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			l.machine.now = epoch.Add(60 * 24 * time.Hour)
		}},
		{"other root", cli.Unverified, "not trusted", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			other := newLab(l.t)
			l.u.Trust.Root = other.u.Trust.Root
		}},
		{"older metadata", cli.Refused, "older than what was seen before", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			r := l.record()
			r.Floors = slot.Floors{Root: 1, Timestamp: 99, Snapshot: 99, Targets: 99}
			l.must(esp.Dir(l.machine.esp).SetRecord(r))
		}},
		{"failed before", cli.Refused, "version 2 failed on this device before: it smoked", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			r := l.record()
			r.Failed = []slot.Failure{{Image: slot.Image{Version: "2", BuildID: "build-2"}, Reason: "it smoked"}}
			l.must(esp.Dir(l.machine.esp).SetRecord(r))
		}},
		{"on trial", cli.Refused, "running slot a is on trial", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			s := l.state()
			s.A = bootstate.SlotState{Status: bootstate.Trial}
			s.B = good
			s.Default = "b"
			l.must(esp.Dir(l.machine.esp).SetState(s))
		}},
		{"unproven with a fallback", cli.Refused, "has not completed a healthy boot", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			s := l.state()
			s.A.Good, s.B = false, good
			l.must(esp.Dir(l.machine.esp).SetState(s))
		}},
		{"one slot only", cli.Refused, "no second slot", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			delete(l.machine.dev.Slots, "b")
		}},
		{"no server", cli.Usage, "no update server", ApplyOptions{}, func(l *lab) { l.u.Config.Server = "" }},
		{"nobody listens", cli.Unreachable, "not reachable", ApplyOptions{}, func(l *lab) { l.server.Close() }},
		{"server trouble", cli.Unreachable, "500", ApplyOptions{}, func(l *lab) {
			l.publish("2")
			l.wrap = func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
			}
		}},
		{"channel", cli.Refused, "channel stable of eos holds no image", ApplyOptions{}, func(l *lab) {
			l.opts.Channel = repository.Testing
			l.publish("2")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			c.prep(l)
			slotB, err := os.ReadFile(slotPath(l))
			l.must(err)
			_, err = l.u.Apply(t.Context(), c.opts)
			wantCode(t, "Apply", err, c.code, c.text)
			after, err := os.ReadFile(slotPath(l))
			l.must(err)
			if l.machine.opened["b"] != 0 || !bytes.Equal(slotB, after) || l.machine.cmdline != "" || l.machine.rebooted {
				t.Error("a refused apply touched the other slot or started something")
			}
		})
	}
}

func slotPath(l *lab) string {
	if p := l.machine.slots["b"]; p != "" {
		return p
	}
	return l.machine.slots["a"]
}

func TestManifestThatIsNotSigned(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	s, err := l.u.open()
	l.must(err)
	m := *l.manifest("a")
	img := repository.Image{Name: m.Name, Class: m.Class, Arch: m.Arch, Version: m.Version, BuildID: m.BuildID, DataSize: m.DataSize, ImageSize: m.ImageSize}
	signed, err := m.Sign(l.image)
	l.must(err)
	if _, err := s.verifyBlock(img, signed); err != nil {
		t.Errorf("verifyBlock(signed) = %v, want nil", err)
	}
	unsigned := bytes.Clone(signed)
	clear(unsigned[3072:])
	_, err = s.verifyBlock(img, unsigned)
	wantCode(t, "verifyBlock(unsigned)", err, cli.Unverified, "not signed")
	changed := bytes.Clone(signed)
	changed[3072+4+32] ^= 1
	_, err = s.verifyBlock(img, changed)
	wantCode(t, "verifyBlock(changed)", err, cli.Unverified, "wrong signature")
	img.Version = "9"
	_, err = s.verifyBlock(img, signed)
	wantCode(t, "verifyBlock(of another image)", err, cli.Unverified, "not what the repository says")
	_, err = s.verifyBlock(img, make([]byte, 4096))
	wantCode(t, "verifyBlock(zeros)", err, cli.Unverified, "no slot manifest")
}

func TestDowngradeWhenAsked(t *testing.T) {
	l := newLab(t)
	l.publish("0.9")
	res := l.apply(ApplyOptions{Choice: Choice{AllowDowngrade: true}})
	if res.Outcome != OutcomeActivating || res.Available.Version != "0.9" {
		t.Errorf("Apply(allow downgrade) = %+v, want 0.9", res)
	}
}

func TestLinkLostAndResumed(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	sent := 0
	l.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "blob") {
				if sent > 300_000 {
					panic(http.ErrAbortHandler)
				}
				w = &cutWriter{ResponseWriter: w, n: &sent, max: 300_000}
			}
			h.ServeHTTP(w, r)
		})
	}
	_, err := l.u.Apply(t.Context(), ApplyOptions{})
	wantCode(t, "Apply over a link that breaks", err, cli.Unreachable, "write slot b")
	if s := l.state(); s.B.Status != bootstate.Empty || s.Default != "a" {
		t.Errorf("state after the break = %+v", s)
	}
	l.powerOn()
	l.commit()
	l.wrap = nil
	res := l.apply(ApplyOptions{})
	if !res.Resumed || res.KeptBytes < 400_000 || res.FetchedBytes > 460_000 {
		t.Errorf("resumed Apply = %+v, want most of it kept", res)
	}
	if !strings.Contains(l.notes.String(), "continued an interrupted update") {
		t.Errorf("notes = %q, want how much was reused", l.notes)
	}
	l.kexec()
	l.commit()
}

// cutWriter ends the connection after max bytes in all.
type cutWriter struct {
	http.ResponseWriter
	n   *int
	max int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if *c.n+len(b) > c.max {
		*c.n = c.max + 1
		panic(http.ErrAbortHandler)
	}
	*c.n += len(b)
	return c.ResponseWriter.Write(b)
}

func TestWrongBytesFromTheServer(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "blob") {
				w = &flipWriter{w}
			}
			h.ServeHTTP(w, r)
		})
	}
	_, err := l.u.Apply(t.Context(), ApplyOptions{})
	wantCode(t, "Apply of wrong bytes", err, cli.Unverified, "verify chunk")
	if s := l.state(); s.B.Status != bootstate.Empty || l.machine.cmdline != "" {
		t.Errorf("state = %+v, loaded %q, want nothing to start", s, l.machine.cmdline)
	}
}

type flipWriter struct{ http.ResponseWriter }

func (f *flipWriter) Write(b []byte) (int, error) {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return f.ResponseWriter.Write(b)
}

func TestKexecRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		prep func(m *fakeMachine)
		text string
	}{
		{"load", func(m *fakeMachine) { m.loadErr = &kexec.UnsupportedError{Why: "locked down"} }, "kexec is not available: locked down"},
		{"jump", func(m *fakeMachine) { m.jumpErr = errors.New("no bus") }, "no bus"},
	} {
		l := newLab(t)
		l.publish("2")
		c.prep(l.machine)
		_, err := l.u.Apply(t.Context(), ApplyOptions{})
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("Apply(%s refused) = %v, want an error with %q", c.name, err, c.text)
		}
		var e *cli.Error
		if c.name == "load" && (!errors.As(err, &e) || !strings.Contains(e.Hint, "--activate reboot")) {
			t.Errorf("Apply(%s refused) = %v, want a hint at --activate reboot", c.name, err)
		}
		if s := l.state(); s.B.Status != bootstate.Written || l.machine.cmdline != "" {
			t.Errorf("after a refused %s: state %+v, loaded %q, want slot b written and nothing loaded", c.name, s, l.machine.cmdline)
		}
		if len(l.record().Failed) != 0 {
			t.Errorf("after a refused %s the version counts as failed", c.name)
		}
		// The other way works without fetching anything again.
		l.u.Config.Activate = ActivateReboot
		if res := l.apply(ApplyOptions{}); res.Wrote || res.Outcome != OutcomeActivating {
			t.Errorf("Apply by reboot = %+v", res)
		}
	}
}

// An update that would take away what containers stand on does not start.
func TestContainersAreKept(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.machine.keepErr = errors.New("no space left")
	_, err := l.u.Apply(t.Context(), ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "no space left") || l.machine.jumped || l.machine.kept != 1 {
		t.Fatalf("Apply where containers cannot be kept: %v, jumped %v, want the error and no jump", err, l.machine.jumped)
	}
	l.machine.keepErr = nil
	if res := l.apply(ApplyOptions{}); res.Outcome != OutcomeActivating || !l.machine.jumped || l.machine.kept != 2 {
		t.Errorf("Apply after it: %s, jumped %v, want the jump", res.Outcome, l.machine.jumped)
	}
}

func TestFlippedBitIsFoundBeforeActivation(t *testing.T) {
	for _, at := range []int64{0, 4096, 899_000, 900_100, 905_000, 907_000, 915_000} {
		l := newLab(t)
		l.publish("2")
		l.u.Fault = func(point string) error {
			if point == "before verify slot" {
				l.flip("b", at)
			}
			return nil
		}
		_, err := l.u.Apply(t.Context(), ApplyOptions{})
		size := l.manifestSize()
		if at >= size {
			continue
		}
		wantCode(t, "Apply with a flipped bit", err, cli.Unverified, "verify slot b")
		if s := l.state(); s.B.Status != bootstate.Empty || l.machine.cmdline != "" {
			t.Errorf("flipped bit at %d: state %+v, loaded %q", at, s, l.machine.cmdline)
		}
		l.u.Fault = nil
		if res := l.apply(ApplyOptions{}); res.FetchedBytes > 400_000 {
			t.Errorf("repair of one bit at %d fetched %d bytes", at, res.FetchedBytes)
		}
	}
}

// manifestSize is the size of the image that is published.
func (l *lab) manifestSize() int64 { return l.manifest("a").ImageSize }

func TestTrialThatFails(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	l.machine.failures = []string{"web.service failed", "db.service failed"}
	l.must(l.u.BootFailed(t.Context()))
	if !l.machine.rebooted || !l.machine.forced {
		t.Error("a failed trial did not force a reboot")
	}
	l.powerOn()
	l.commit()
	if l.machine.dev.Slot != "a" {
		t.Errorf("slot %s runs after a failed trial, want a", l.machine.dev.Slot)
	}
	r := l.record()
	if f := r.Refuses("2", "build-2"); f == nil || f.Reason != "web.service failed, db.service failed" {
		t.Errorf("remembered failure = %+v, want the units", f)
	}
	_, err := l.u.Check(t.Context(), Choice{})
	wantCode(t, "Check after a failed trial", err, cli.Refused, "failed on this device before")
	l.publish("3")
	if res := l.apply(ApplyOptions{}); res.Available.Version != "3" {
		t.Errorf("Apply after a failed trial = %+v, want 3", res)
	}
}

func TestTrialThatNobodyEnded(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	l.powerOn() // the plug was pulled
	l.commit()
	if f := l.record().Refuses("2", "build-2"); f == nil || !strings.Contains(f.Reason, "ended without commit") {
		t.Errorf("remembered failure = %+v", f)
	}
	if s := l.state(); s.B.Status != bootstate.Failed || s.A != good {
		t.Errorf("state = %+v, want b failed", s)
	}
	l.apply(ApplyOptions{Choice: Choice{Version: "2"}})
	l.kexec()
	l.commit()
	if f := l.record().Refuses("2", "build-2"); f != nil {
		t.Errorf("a committed version still counts as failed: %+v", f)
	}
}

func TestApplyKilledBeforeTheJump(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.u.Fault = func(point string) error {
		if point == "before jump" {
			l.machine.dead = true
			return errPower
		}
		return nil
	}
	if _, err := l.u.Apply(t.Context(), ApplyOptions{}); !errors.Is(err, errPower) {
		t.Fatalf("Apply = %v, want %v", err, errPower)
	}
	l.u.Fault, l.machine.dead = nil, false // the program was killed, the system runs on
	res := l.apply(ApplyOptions{})
	if res.Wrote || res.Outcome != OutcomeActivating {
		t.Errorf("Apply after being killed = %+v, want the jump alone", res)
	}
	l.kexec()
	l.commit()
}

func TestBootFailedOfACommittedSlot(t *testing.T) {
	l := newLab(t)
	l.must(l.u.BootFailed(t.Context()))
	if l.machine.rebooted || !strings.Contains(l.notes.String(), "stays up") {
		t.Errorf("with no slot to fall back to: rebooted %v, said %q, want it to stay up", l.machine.rebooted, l.notes)
	}
	l.update("2")
	l.powerOn()
	l.must(l.u.BootFailed(t.Context()))
	if !l.machine.rebooted {
		t.Error("with a slot to fall back to: no reboot")
	}
	for range bootstate.Tries + 1 {
		l.powerOn()
		if l.machine.dev.Slot == "a" {
			break
		}
		l.must(l.u.BootFailed(t.Context()))
	}
	if l.machine.dev.Slot != "a" {
		t.Fatal("did not fall back to slot a")
	}
	l.commit()
	if f := l.record().Refuses("2", "build-2"); f == nil {
		t.Error("a default that did not boot is not remembered")
	}
	st := l.u.Status()
	if !st.FellBack {
		t.Errorf("Status = %+v, want the fallback noticed", st)
	}
}

// A time limit that runs out while the commit is written comes too late to matter.
func TestBootFailedAfterTheCommit(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	l.commit()
	record := l.record()
	l.must(l.u.BootFailed(t.Context()))
	if l.machine.rebooted || !strings.Contains(l.notes.String(), "has proved itself in this boot") {
		t.Errorf("after the commit: rebooted %v, said %q, want it to stay up", l.machine.rebooted, l.notes)
	}
	if got := l.record(); got.Seq != record.Seq {
		t.Errorf("record = %+v, want no new one", got)
	}
}

func TestBootFailedWithEverythingBroken(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	l.machine.noESP = errors.New("no such device")
	if err := l.u.BootFailed(t.Context()); err == nil || !l.machine.rebooted || !l.machine.forced {
		t.Errorf("BootFailed in a trial without ESP = %v, rebooted %v, want an error and a reboot", err, l.machine.rebooted)
	}
}

func TestRollbackRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		code cli.Code
		text string
		prep func(l *lab)
	}{
		{"empty", cli.Refused, "slot b was never committed: it is empty", func(l *lab) {}},
		{"never committed", cli.Refused, "slot b was never committed: it is written", func(l *lab) {
			l.publish("2")
			l.apply(ApplyOptions{DownloadOnly: true})
		}},
		{"failed", cli.Refused, "slot b was never committed: it is failed", func(l *lab) {
			l.publish("2")
			l.apply(ApplyOptions{})
			l.kexec()
			l.must(l.u.BootFailed(t.Context()))
			l.powerOn()
			l.commit()
		}},
		{"on trial", cli.Refused, "running slot b is on trial", func(l *lab) {
			l.publish("2")
			l.apply(ApplyOptions{})
			l.kexec()
		}},
		{"manifest gone", cli.Unverified, "slot manifest", func(l *lab) {
			l.update("2")
			f, err := os.OpenFile(l.machine.slots["a"], os.O_RDWR, 0)
			l.must(err)
			_, err = f.WriteAt(make([]byte, 4096), l.manifest("a").ManifestOffset())
			l.must(errors.Join(err, f.Close()))
		}},
		{"wiped", cli.Refused, "slot is empty", func(l *lab) {
			l.update("2")
			f, err := os.OpenFile(l.machine.slots["a"], os.O_RDWR, 0)
			l.must(err)
			_, err = f.WriteAt(make([]byte, 4096), 0)
			l.must(errors.Join(err, f.Close()))
		}},
		{"corrupt", cli.Unverified, "verify slot a", func(l *lab) {
			l.update("2")
			l.flip("a", 700_000)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			c.prep(l)
			before := l.state()
			_, err := l.u.Rollback(t.Context(), true)
			wantCode(t, "Rollback", err, c.code, c.text)
			if after := l.state(); after.Default != before.Default || l.machine.rebooted {
				t.Errorf("a refused rollback changed %+v to %+v, rebooted %v", before, after, l.machine.rebooted)
			}
		})
	}
}

func TestRollbackRepairsTheKernelOnTheESP(t *testing.T) {
	l := newLab(t)
	l.update("2")
	l.must(os.Truncate(l.machine.esp+"/EFI/eos/a.efi", 10))
	res, err := l.u.Rollback(t.Context(), true)
	if err != nil || !l.machine.rebooted || !res.Rebooting {
		t.Fatalf("Rollback = %+v, %v, want a reboot", res, err)
	}
	l.powerOn()
	if l.machine.dev.Slot != "a" {
		t.Errorf("slot %s runs, want a", l.machine.dev.Slot)
	}
}

func TestLostBootState(t *testing.T) {
	l := newLab(t)
	l.update("2")
	l.must(os.WriteFile(l.machine.esp+"/EFI/eos/bootstate", []byte("rubbish"), 0o600))
	if st := l.u.Status(); len(st.Problems) != 0 || st.Default != "b" {
		t.Errorf("Status with a copy of the boot state = %+v, want what the copy says", st)
	}
	l.must(os.WriteFile(l.machine.esp+"/EFI/eos/bootstate2", []byte("rubbish"), 0o600))
	if st := l.u.Status(); len(st.Problems) == 0 || st.Default != "" {
		t.Errorf("Status with a lost boot state = %+v, want it said", st)
	}
	l.commit()
	if s := l.state(); s.Default != "b" || s.B != good || s.A.Status != bootstate.Committed {
		t.Errorf("rebuilt state = %+v, want both committed and b the default", s)
	}
}

func TestLostRecord(t *testing.T) {
	l := newLab(t)
	l.must(os.WriteFile(l.machine.esp+"/EFI/eos/record", bytes.Repeat([]byte("x"), slot.RecordSize), 0o600))
	l.update("2")
	if !strings.Contains(l.notes.String(), "without history") {
		t.Errorf("notes = %q, want the loss said", l.notes)
	}
	if r := l.record(); r.Last.Op != slot.OpCommit {
		t.Errorf("record = %+v, want it to begin anew", r)
	}
}

func TestLock(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	unlock, err := lock(t.Context(), l.u.Lock, 0)
	l.must(err)
	_, err = l.u.Apply(t.Context(), ApplyOptions{})
	wantCode(t, "Apply while another runs", err, cli.Locked, "another os-update is running")
	_, err = l.u.Rollback(t.Context(), false)
	wantCode(t, "Rollback while another runs", err, cli.Locked, "another os-update is running")
	if st := l.u.Status(); !st.Locked {
		t.Errorf("Status while another runs = %+v, want it said", st)
	}
	// A commit waits: being second is no ill health.
	go func() {
		time.Sleep(50 * time.Millisecond)
		unlock()
	}()
	if c := l.commit(); c.Outcome != "unchanged" {
		t.Errorf("Commit = %+v", c)
	}
	if st := l.u.Status(); st.Locked {
		t.Error("Status says locked when nobody runs")
	}
}

func TestClockInThePast(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.machine.now = time.Unix(0, 0)
	if _, err := l.u.Check(t.Context(), Choice{}); err != nil {
		t.Errorf("Check in 1970 = %v, want the build time to count", err)
	}
	if s, err := l.u.open(); err != nil || s.d.Now != epoch.Add(-time.Hour).Unix() {
		t.Errorf("now = %d, %v, want the build time of what runs", s.d.Now, err)
	}
}

func TestStatus(t *testing.T) {
	l := newLab(t)
	l.update("2")
	st := l.u.Status()
	var b strings.Builder
	l.must(st.Text(&b))
	for _, want := range []string{"running   slot b, version 2\n", "default   slot b\n", "slot a    committed, version 1, good\n", "slot b    committed, version 2, good\n", "last      commit 2: ok"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("Status = %s, want %q in it", b.String(), want)
		}
	}
	l.machine.noESP = os.ErrPermission
	st = l.u.Status()
	if st.Version != "2" || len(st.Problems) != 1 || !strings.Contains(st.Problems[0], "root") {
		t.Errorf("Status without root = %+v", st)
	}
	st = (&Updater{Machine: &System{BootFile: "/nonexistent"}}).Status()
	b.Reset()
	l.must(st.Text(&b))
	if !strings.Contains(b.String(), "running   slot unknown") || !strings.Contains(b.String(), "unknown   read boot description") {
		t.Errorf("Status on another machine = %s", b.String())
	}
}

func TestInterrupted(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	ctx, cancel := context.WithCancel(t.Context())
	l.u.Fault = func(point string) error {
		if strings.HasPrefix(point, "chunk at 4") {
			cancel()
		}
		return nil
	}
	if _, err := l.u.Apply(ctx, ApplyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted Apply = %v, want %v", err, context.Canceled)
	}
	l.u.Fault = nil
	if res := l.apply(ApplyOptions{}); !res.Resumed {
		t.Errorf("Apply after an interrupt = %+v, want it resumed", res)
	}
}

func TestRead(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	want, err := os.ReadFile(l.build("2"))
	l.must(err)
	var b bytes.Buffer
	l.must(l.u.Read(t.Context(), &b))
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("Read gave %d bytes, want the %d of the slot image", b.Len(), len(want))
	}
	// Also where there is no device.
	u := *l.u
	u.Machine = &System{BootFile: "/nonexistent"}
	b.Reset()
	l.must(u.Read(t.Context(), &b))
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("Read off the device gave %d bytes, want the %d of the slot image", b.Len(), len(want))
	}
	if err := l.u.Read(t.Context(), failingWriter{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Read into a closed pipe = %v, want %v", err, io.ErrClosedPipe)
	}
	l.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "blob") {
				w = &flipWriter{w}
			}
			h.ServeHTTP(w, r)
		})
	}
	b.Reset()
	err = l.u.Read(t.Context(), &b)
	wantCode(t, "Read of wrong bytes", err, cli.Unverified, "verify chunk")
	if b.Len() >= len(want) {
		t.Error("Read of wrong bytes gave a whole image")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
