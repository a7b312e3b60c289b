package update

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/device"
	"github.com/OSInside/eos/internal/esp"
	"github.com/OSInside/eos/internal/kexec"
	"github.com/OSInside/eos/internal/kexec/kexectest"
	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// epoch is when all tests happen.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// slotSize is the size of a slot in the lab.
const slotSize = 2 << 20

// lab is a publisher, a server and one device, all in files.
type lab struct {
	t       *testing.T
	keys    string
	repo    string
	image   ed25519.PrivateKey
	opts    repository.PublishOptions
	server  *httptest.Server
	wrap    func(http.Handler) http.Handler // may be changed while the server runs
	machine *fakeMachine
	u       *Updater
	notes   *notes
	built   map[string]string // image files by version
}

// notes is a Progress that remembers what was said.
type notes struct {
	cli.Progress
	lines []string
}

func (n *notes) Note(format string, a ...any) { n.lines = append(n.lines, fmt.Sprintf(format, a...)) }
func (n *notes) String() string               { return strings.Join(n.lines, "\n") }

// newLab returns a device that runs version 1 in slot a, committed and good, and
// an empty repository.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, keys: t.TempDir(), repo: filepath.Join(t.TempDir(), "repo"), notes: &notes{Progress: cli.NoProgress()}}
	for _, name := range []string{"image", "root", "targets", "online", "stranger"} {
		l.must(key.Generate(l.keys, name))
	}
	l.must(repository.WriteRoot(l.keys, epoch.Add(repository.RootLifetime)))
	root, err := repository.LoadRoot(l.keys)
	l.must(err)
	l.image = l.private("image")
	ring, err := repository.LoadKeyring(l.keys)
	l.must(err)
	accepted := []ed25519.PublicKey{l.image.Public().(ed25519.PublicKey)}
	l.opts = repository.PublishOptions{Keys: ring, Accepted: accepted, Now: func() time.Time { return epoch }}
	_, err = repository.Init(t.Context(), repository.Folder(l.repo), root)
	l.must(err)

	files := http.FileServer(http.Dir(l.repo))
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := http.Handler(files)
		if l.wrap != nil {
			h = l.wrap(h)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(l.server.Close)

	l.u = &Updater{
		Accepted: accepted, Progress: l.notes,
		Config: Config{Server: l.server.URL, Name: "eos"},
		Lock:   filepath.Join(t.TempDir(), "lock"),
		Trust:  Trust{Root: filepath.Join(l.keys, repository.RootFile), Cache: t.TempDir(), HTTP: l.server.Client(), Retries: 1, Wait: time.Millisecond, Stall: 5 * time.Second},
	}
	l.built = map[string]string{}
	l.renew()
	return l
}

// renew puts a new device in the place of the old one. The publisher stays.
func (l *lab) renew() {
	l.t.Helper()
	l.machine = newFakeMachine(l.t)
	l.u.Machine, l.u.Trust.Cache = l.machine, l.t.TempDir()
	l.factory("1")
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) private(name string) ed25519.PrivateKey {
	k, err := key.LoadPrivate(filepath.Join(l.keys, name+".key"))
	l.must(err)
	return k.Key
}

// spec is what an image in the lab is made from.
type spec struct {
	m    slotimage.Manifest
	size int
	base uint64 // what the first third is made from
	keys []ed25519.PrivateKey
}

// The kernel image inside an image of the lab is at a fixed place.
const (
	kernelLength = 128 // where its length is
	kernelAt     = 4096
)

// build makes a slot image. The first third of its data is the same in every
// version, so that there is something to reuse.
func (l *lab) build(version string, change ...func(*spec)) string {
	l.t.Helper()
	s := spec{
		m:    slotimage.Manifest{Name: "eos", Class: "qemu", Arch: "amd64", Version: version, BuildID: "build-" + version, Built: epoch.Add(-time.Hour).Unix()},
		size: 900_000, base: 1, keys: []ed25519.PrivateKey{l.image},
	}
	for _, f := range change {
		f(&s)
	}
	data := make([]byte, s.size)
	fill(data[:s.size/3], s.base)
	fill(data[s.size/3:], uint64(len(version))<<32+uint64(version[len(version)-1]))
	clear(data[:256])
	le := binary.LittleEndian
	copy(data, "hsqs")
	le.PutUint32(data[12:], 131072)
	le.PutUint16(data[20:], 1)
	le.PutUint16(data[22:], 17)
	le.PutUint16(data[28:], 4)
	le.PutUint64(data[40:], uint64(s.size))
	for at := 48; at < 96; at += 8 {
		le.PutUint64(data[at:], ^uint64(0))
	}
	uki := kexectest.UKI(l.t, "kernel "+version, "initrd "+version, "console=ttyS0 quiet eos.slot=x")
	le.PutUint32(data[kernelLength:], uint32(len(uki)))
	copy(data[kernelAt:], uki)
	path := filepath.Join(l.t.TempDir(), "image.slot")
	l.must(os.WriteFile(path, data, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	l.must(err)
	_, err = slotimage.Assemble(l.t.Context(), f, int64(s.size), s.m, s.keys...)
	l.must(errors.Join(err, f.Close()))
	return path
}

func fill(b []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
}

// publish builds and publishes a version.
func (l *lab) publish(version string, change ...func(*spec)) {
	l.t.Helper()
	r, err := repository.Open(l.t.Context(), repository.Folder(l.repo))
	l.must(err)
	_, err = r.Publish(l.t.Context(), []string{l.build(version, change...)}, l.opts)
	l.must(err)
}

// factory puts a version into slot a as a new device has it after its first
// healthy boot.
func (l *lab) factory(version string) {
	l.t.Helper()
	if l.built[version] == "" {
		l.built[version] = l.build(version)
	}
	l.write("a", l.built[version])
	s := bootstate.Factory()
	s.Booted, s.A.Good = "a", true
	v := esp.Dir(l.machine.esp)
	l.must(v.SetState(s))
	l.must(v.SetRecord(slot.Record{ProvenA: &slot.Image{Version: version, BuildID: "build-" + version}}))
	l.installKernel("a")
}

// write copies an image into a slot.
func (l *lab) write(x bootstate.Slot, image string) {
	l.t.Helper()
	b, err := os.ReadFile(image)
	l.must(err)
	f, err := os.OpenFile(l.machine.slots[x], os.O_RDWR, 0)
	l.must(err)
	_, err = f.WriteAt(b, 0)
	l.must(errors.Join(err, f.Close()))
}

func (l *lab) installKernel(x bootstate.Slot) {
	l.t.Helper()
	m := l.manifest(x)
	k, err := l.machine.Kernel(l.t.Context(), x, m)
	l.must(err)
	l.must(esp.Dir(l.machine.esp).InstallKernel(l.t.Context(), x, k, k.Size()))
}

func (l *lab) manifest(x bootstate.Slot) *slotimage.Manifest {
	l.t.Helper()
	f, err := os.Open(l.machine.slots[x])
	l.must(err)
	defer f.Close()
	st, err := f.Stat()
	l.must(err)
	m, err := slotimage.Read(f, st.Size(), l.u.Accepted)
	l.must(err)
	return m
}

func (l *lab) state() bootstate.State {
	l.t.Helper()
	s, err := esp.Dir(l.machine.esp).State()
	l.must(err)
	return s
}

func (l *lab) record() slot.Record {
	l.t.Helper()
	r, err := esp.Dir(l.machine.esp).Record()
	l.must(err)
	return r
}

// apply applies and must begin a trial.
func (l *lab) apply(o ApplyOptions) *ApplyResult {
	l.t.Helper()
	res, err := l.u.Apply(l.t.Context(), o)
	l.must(err)
	return res
}

// update brings the device to a version through kexec and commit.
func (l *lab) update(version string) {
	l.t.Helper()
	l.publish(version)
	l.apply(ApplyOptions{})
	l.kexec()
	l.commit()
}

func (l *lab) commit() *CommitResult {
	l.t.Helper()
	res, err := l.u.Commit(l.t.Context())
	l.must(err)
	return res
}

// kexec plays the jump into the loaded kernel.
func (l *lab) kexec() {
	l.t.Helper()
	m := l.machine
	if m.cmdline == "" || !m.jumped {
		l.t.Fatalf("no jump: loaded %q, jumped %v", m.cmdline, m.jumped)
	}
	words := kexec.Words(m.cmdline)
	l.start(bootstate.Slot(value(words, "eos.slot")), value(words, "COMMIT_UPDATE") == "COMMIT_UPDATE")
}

func value(words []string, name string) string {
	for _, w := range words {
		if n, v, ok := strings.Cut(w, "="); n == name {
			if !ok {
				return name
			}
			return v
		}
	}
	return ""
}

// powerOn plays firmware and boot loader. What it starts must be a slot that was
// committed, or a trial that was asked for once, and its image must be whole.
func (l *lab) powerOn() {
	l.t.Helper()
	l.machine.dead = false
	v := esp.Dir(l.machine.esp)
	s := l.state()
	next, x, why := bootstate.Decide(s, func(x bootstate.Slot) bool { return v.CheckKernel(x) == nil })
	l.must(v.SetState(next))
	if x == bootstate.None {
		l.t.Fatalf("nothing boots: %+v", s)
	}
	if st := s.Slot(x).Status; st != bootstate.Committed && why != bootstate.ReasonTrial {
		l.t.Fatalf("boot loader starts slot %s, which is %s (%s)", x, st, why)
	}
	l.start(x, why == bootstate.ReasonTrial)
}

// start plays eos-init and the start of the system.
func (l *lab) start(x bootstate.Slot, trial bool) {
	l.t.Helper()
	m := l.verify(x)
	fm := l.machine
	fm.dev.Slot, fm.dev.Trial, fm.dev.Version, fm.dev.BuildID = x, trial, m.Version, m.BuildID
	fm.boots++
	fm.cmdline, fm.jumped, fm.rebooted, fm.forced = "", false, false, false
}

// verify reads a slot with everything that eos-init and dm-verity check.
func (l *lab) verify(x bootstate.Slot) *slotimage.Manifest {
	l.t.Helper()
	m := l.manifest(x)
	f, err := os.Open(l.machine.slots[x])
	l.must(err)
	defer f.Close()
	if err := slotimage.Verify(l.t.Context(), f, m, nil); err != nil {
		l.t.Fatalf("slot %s does not verify: %v", x, err)
	}
	return m
}

// fakeMachine is a device in a folder.
type fakeMachine struct {
	t     *testing.T
	dev   *device.Device
	esp   string
	fw    string // what the running image has for the ESP
	slots map[bootstate.Slot]string
	boots int
	now   time.Time

	loadErr, jumpErr, rebootErr, keepErr error

	kept     int // times containers were to be kept
	failures []string

	cmdline                  string // of the loaded kernel, empty for none
	jumped, rebooted, forced bool

	dead    bool                   // power is off: nothing is written any more
	writing func(Block) Block      // wraps the slot that is written
	noESP   error                  // the ESP cannot be mounted
	onESP   func(write bool)       // sees every mount
	opened  map[bootstate.Slot]int // times a slot was opened for writing
}

var errPower = errors.New("power is off")

func newFakeMachine(t *testing.T) *fakeMachine {
	m := &fakeMachine{t: t, esp: t.TempDir(), fw: t.TempDir(), slots: map[bootstate.Slot]string{}, now: epoch, opened: map[bootstate.Slot]int{}}
	for _, x := range []bootstate.Slot{"a", "b"} {
		m.slots[x] = filepath.Join(t.TempDir(), "slot-"+string(x))
		if err := os.WriteFile(m.slots[x], make([]byte, slotSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.dev = &device.Device{Slot: "a", DiskGUID: "0fc63daf-8483-4772-8e79-3d69d8477de4", ESP: "esp", Slots: m.slots}
	return m
}

func (m *fakeMachine) Device() (*device.Device, error) { return m.dev, nil }

func (m *fakeMachine) ESP(write bool) (*esp.Volume, error) {
	if m.dead {
		return nil, errPower
	}
	if m.noESP != nil {
		return nil, m.noESP
	}
	if m.onESP != nil {
		m.onESP(write)
	}
	return esp.Dir(m.esp), nil
}

func (m *fakeMachine) OpenSlot(x device.Slot, write bool) (Block, error) {
	if m.dead {
		return nil, errPower
	}
	b, err := m.dev.OpenSlot(x, write)
	if err != nil {
		return nil, err
	}
	out := Block(block{b})
	if write {
		m.opened[x]++
		if m.writing != nil {
			out = m.writing(out)
		}
	}
	return out, nil
}

// section is a kernel image inside a slot file.
type section struct {
	*io.SectionReader
	f *os.File
}

func (s section) Close() error { return s.f.Close() }

func (m *fakeMachine) Kernel(ctx context.Context, x device.Slot, man *slotimage.Manifest) (Kernel, error) {
	if m.dead {
		return nil, errPower
	}
	f, err := os.Open(m.slots[x])
	if err != nil {
		return nil, err
	}
	// dm-verity, all at once.
	if err := slotimage.Verify(ctx, f, man, nil); err != nil {
		f.Close()
		return nil, err
	}
	n := make([]byte, 4)
	if _, err := f.ReadAt(n, kernelLength); err != nil {
		return nil, err
	}
	return section{io.NewSectionReader(f, kernelAt, int64(binary.LittleEndian.Uint32(n))), f}, nil
}

func (m *fakeMachine) Firmware() fs.FS { return os.DirFS(m.fw) }

func (m *fakeMachine) LoadKernel(u *kexec.UKI, cmdline string) error {
	if m.loadErr != nil {
		return m.loadErr
	}
	m.cmdline = cmdline
	return nil
}

func (m *fakeMachine) UnloadKernel() error { m.cmdline = ""; return nil }

func (m *fakeMachine) KeepContainers(context.Context, func(string)) error {
	m.kept++
	return m.keepErr
}

func (m *fakeMachine) Jump(context.Context) error {
	m.jumped = m.jumpErr == nil
	return m.jumpErr
}

func (m *fakeMachine) Reboot(_ context.Context, force bool) error {
	m.rebooted, m.forced = m.rebootErr == nil, force
	return m.rebootErr
}

func (m *fakeMachine) Failures(context.Context) []string { return m.failures }
func (m *fakeMachine) BootID() string                    { return fmt.Sprint("boot-", m.boots) }
func (m *fakeMachine) Now() time.Time                    { return m.now }
