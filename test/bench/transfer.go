package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/update"
)

// way is one way to bring an image to a device that has an older one.
type way struct {
	Name     string  `json:"name"`
	Bytes    int64   `json:"bytes"` // that went over the wire, headers not counted
	Requests int64   `json:"requests"`
	Seconds  float64 `json:"seconds"`
	CPU      float64 `json:"cpu_seconds"` // of the device's side
	Memory   int64   `json:"peak_memory_bytes"`
}

// measureTransfer fetches one security update in the ways there are, side by side: the same two
// images, the same server on loopback, the same file system.
func measureTransfer(ctx context.Context, l *lab) error {
	old, err := l.old(ctx, "1.0.0")
	if err != nil {
		return err
	}
	month, err := l.image(ctx, "2.0.0")
	if err != nil {
		return err
	}
	dir := filepath.Join(l.scratch, "transfer")
	repo := filepath.Join(dir, "repo")
	for _, b := range []*built{old, month} {
		if err := l.eos(ctx, nil, "publish", b.Slot, "--repo", repo); err != nil {
			return err
		}
	}
	// What is fetched is the image without its hash tree, which the device makes itself.
	var blobs [2]string
	for i, b := range []*built{old, month} {
		blobs[i] = filepath.Join(dir, fmt.Sprintf("%d.blob", i))
		if err := dataOf(b.Slot, blobs[i]); err != nil {
			return err
		}
	}
	server, err := newCounting(dir)
	if err != nil {
		return err
	}
	defer server.Close()
	t := &transfer{l: l, dir: dir, old: blobs[0], new: blobs[1], server: server}
	for _, w := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"os-update", t.ours},
		{"casync, same chunk sizes", t.casync},
		{"xdelta3 -9", t.xdelta},
		{"zstd -19 --patch-from", t.patchFrom},
		{"full copy", t.full},
	} {
		if err := t.measure(ctx, w.name, w.run); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// dataOf copies data and manifest block of a slot image.
func dataOf(slot, to string) error {
	f, err := os.Open(slot)
	if err != nil {
		return err
	}
	defer f.Close()
	at, err := slotimage.Locate(f)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(f, 0, at+slotimage.BlockSize))
	return errors.Join(err, out.Close())
}

// transfer measures ways.
type transfer struct {
	l        *lab
	dir      string
	old, new string // files
	server   *counting
	way      way
}

// measure runs one way and checks that it gave the right bytes.
func (t *transfer) measure(ctx context.Context, name string, run func(context.Context) error) error {
	out := filepath.Join(t.dir, "out")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	t.way = way{Name: name}
	if err := run(ctx); err != nil {
		return err
	}
	if err := same(out, t.new); err != nil {
		return err
	}
	t.way.Bytes, t.way.Requests = t.server.take()
	t.l.report.Ways = append(t.l.report.Ways, t.way)
	t.l.note("%s: %s in %d requests, %.1f s", name, human(float64(t.way.Bytes), "bytes"), t.way.Requests, t.way.Seconds)
	return nil
}

// same says whether a begins with the bytes of b and has no others.
func same(a, b string) error {
	x, err := os.Open(a)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return err
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err1 := io.ReadFull(x, p)
		m, err2 := io.ReadFull(y, q)
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			return errors.New("the result is not the new image")
		}
		if err1 != nil || err2 != nil {
			return nil
		}
	}
}

// device runs a command of the device's side and adds what it costs. What was asked of the
// server before is none of it.
func (t *transfer) device(ctx context.Context, c command.Cmd) error {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	var said bytes.Buffer
	cmd.Env, cmd.Stderr = append(os.Environ(), c.Env...), &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	t.way.Seconds += time.Since(began).Seconds()
	t.way.CPU += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.way.Memory = max(t.way.Memory, u.Maxrss<<10)
	}
	return nil
}

// fetchEnv names what this program does when it is started as the device's side of os-update.
const fetchEnv = "EOS_BENCH_FETCH"

// job is what it is told.
type job struct{ URL, Root, Old, Out string }

// ours is what os-update does with a slot that runs the old image and an empty other one.
func (t *transfer) ours(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(job{URL: t.server.url + "/repo", Root: filepath.Join(t.l.keys(), "root.json"), Old: t.old, Out: filepath.Join(t.dir, "out")})
	if err != nil {
		return err
	}
	return t.device(ctx, command.Cmd{Argv: []string{self}, Env: []string{fetchEnv + "=" + string(text)}})
}

// fetch is the device's side.
func fetch(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	root, err := os.ReadFile(j.Root)
	if err != nil {
		return err
	}
	c := &repository.Client{BaseURL: j.URL, RootJSON: root}
	cat, _, err := c.Refresh(ctx)
	if err != nil {
		return err
	}
	var img repository.Image
	for _, i := range cat.All() {
		if i.Version == "2.0.0" {
			img = i
		}
	}
	if _, err := c.Manifest(ctx, img); err != nil {
		return err
	}
	index, err := c.OpenIndex(ctx, img)
	if err != nil {
		return err
	}
	old, err := os.Open(j.Old)
	if err != nil {
		return err
	}
	defer old.Close()
	st, err := old.Stat()
	if err != nil {
		return err
	}
	seed, err := index.Seed(ctx, old, st.Size())
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(j.Out, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f := c.Fetcher(img)
	_, err = chunk.Assemble(ctx, dst, index, []chunk.Seed{seed}, f, chunk.Options{Merging: update.Merging, Parallel: update.Parallel})
	return errors.Join(err, f.Close(), dst.Sync(), dst.Close())
}

func (t *transfer) casync(ctx context.Context) error {
	f, err := os.Open(t.new)
	if err != nil {
		return err
	}
	x, err := chunk.Make(ctx, f)
	f.Close()
	if err != nil {
		return err
	}
	store, index := filepath.Join(t.dir, "store.castr"), filepath.Join(t.dir, "new.caibx")
	if err := command.Run(ctx, t.l.tree.Command("casync", "make", fmt.Sprintf("--chunk-size=%d:%d:%d", x.Min, x.Avg, x.Max), "--store="+store, index, t.new)); err != nil {
		return err
	}
	return t.device(ctx, t.l.tree.Command("casync", "extract", "--store="+t.server.url+"/store.castr", "--seed="+t.old, t.server.url+"/new.caibx", filepath.Join(t.dir, "out")))
}

func (t *transfer) xdelta(ctx context.Context) error {
	patch := filepath.Join(t.dir, "patch")
	// The window is as large as the image, or nothing that moved far is found.
	if err := command.Run(ctx, t.l.tree.Command("xdelta3", "-e", "-f", "-9", "-B", "536870912", "-s", t.old, t.new, patch)); err != nil {
		return err
	}
	if err := t.get(ctx, "patch", "got"); err != nil {
		return err
	}
	return t.device(ctx, t.l.tree.Command("xdelta3", "-d", "-f", "-B", "536870912", "-s", t.old, filepath.Join(t.dir, "got"), filepath.Join(t.dir, "out")))
}

func (t *transfer) patchFrom(ctx context.Context) error {
	patch := filepath.Join(t.dir, "patch")
	if err := command.Run(ctx, t.l.tree.Command("zstd", "-q", "-f", "-19", "-T0", "--long=31", "--patch-from="+t.old, t.new, "-o", patch)); err != nil {
		return err
	}
	if err := t.get(ctx, "patch", "got"); err != nil {
		return err
	}
	return t.device(ctx, t.l.tree.Command("zstd", "-q", "-d", "-f", "--long=31", "--patch-from="+t.old, filepath.Join(t.dir, "got"), "-o", filepath.Join(t.dir, "out")))
}

func (t *transfer) full(ctx context.Context) error {
	return t.get(ctx, filepath.Base(t.new), "out")
}

// get fetches a file as a device would have to, in this process.
func (t *transfer) get(ctx context.Context, name, to string) error {
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.server.url+"/"+name, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch %s: %s", name, res.Status)
	}
	f, err := os.Create(filepath.Join(t.dir, to))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	err = errors.Join(err, f.Sync(), f.Close())
	t.way.Seconds += time.Since(began).Seconds()
	return err
}

// counting is a server of static files that counts.
type counting struct {
	*http.Server
	url             string
	bytes, requests atomic.Int64
}

func newCounting(dir string) (*counting, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counting{url: "http://" + l.Addr().String()}
	files := http.FileServer(http.Dir(dir))
	c.Server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.requests.Add(1)
		files.ServeHTTP(&countingWriter{w, c}, r)
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = c.Serve(l) }() // until it is closed
	return c, nil
}

// take returns the counts and begins anew.
func (c *counting) take() (bytes, requests int64) { return c.bytes.Swap(0), c.requests.Swap(0) }

type countingWriter struct {
	http.ResponseWriter
	c *counting
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.c.bytes.Add(int64(n))
	return n, err
}
