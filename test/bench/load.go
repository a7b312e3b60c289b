package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/OSInside/eos/internal/command"
)

// devices is how many of them ask for updates in measureLoad.
const devices = 10_000

// measureLoad sets os-update-daemon serve beside nginx: the same files, the same machine, one
// after the other, both with a line of log for each request.
func measureLoad(ctx context.Context, l *lab) error {
	month, err := l.image(ctx, "2.0.0")
	if err != nil {
		return err
	}
	dir := filepath.Join(l.scratch, "load")
	repo := filepath.Join(dir, "repo")
	if err := l.eos(ctx, nil, "publish", month.Slot, "--repo", repo); err != nil {
		return err
	}
	blobs, err := filepath.Glob(filepath.Join(repo, "targets/*/*/*/*.blob"))
	if err != nil || len(blobs) != 1 {
		return fmt.Errorf("find blob: %v, %w", blobs, err)
	}
	blob, err := filepath.Rel(repo, blobs[0])
	if err != nil {
		return err
	}
	// nginx's workers are not root, and read what everybody may.
	for p := repo; p != filepath.Dir(l.scratch); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			return err
		}
	}
	var both [2]load
	for i, start := range []func(context.Context, string, string) (string, func(), error){l.startOurs, l.startNginx} {
		url, stop, err := start(ctx, dir, repo)
		if err != nil {
			return err
		}
		both[i], err = l.load(ctx, url, blob)
		stop()
		if err != nil {
			return err
		}
	}
	ours, nginx := both[0], both[1]
	l.add(count("small file, 64 connections: requests a second", int64(ours.small), "requests/s").with("nginx", count("", int64(nginx.small), "requests/s")))
	l.add(count("image, 8 connections: megabytes a second", int64(ours.large), "MB/s").with("nginx", count("", int64(nginx.large), "MB/s")))
	for _, p := range []struct {
		name string
		at   float64
	}{{"half of them within", 0.5}, {"99 of 100 within", 0.99}} {
		l.add(seconds(fmt.Sprintf("%d devices checking: %s", devices, p.name), ours.at(p.at)).with("nginx", seconds("", nginx.at(p.at))))
	}
	l.add(seconds(fmt.Sprintf("%d devices checking: all of them", devices), ours.all).with("nginx", seconds("", nginx.all)))
	return nil
}

// load is what a server has done.
type load struct {
	small, large float64 // requests/s, MB/s
	checks       []time.Duration
	all          time.Duration
}

// at is the time within which a share of the checks was done.
func (l load) at(share float64) time.Duration {
	return l.checks[min(int(share*float64(len(l.checks))), len(l.checks)-1)]
}

func (l *lab) load(ctx context.Context, url, blob string) (load, error) {
	var r load
	var err error
	if r.small, err = l.wrk(ctx, 64, url+"/metadata/timestamp.json", `Requests/sec:\s+([0-9.]+)()`); err != nil {
		return r, err
	}
	if r.large, err = l.wrk(ctx, 8, url+"/"+blob, `Transfer/sec:\s+([0-9.]+)(.)B`); err != nil {
		return r, err
	}
	began := time.Now()
	r.checks, err = checks(ctx, url)
	r.all = time.Since(began)
	slices.Sort(r.checks)
	return r, err
}

// wrk runs the load generator for ten seconds and reads one figure of its report.
func (l *lab) wrk(ctx context.Context, connections int, url, pattern string) (float64, error) {
	out, err := command.Output(ctx, l.tree.Command("wrk", "-t2", "-d10s", "-c"+strconv.Itoa(connections), url))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(pattern).FindStringSubmatch(string(out))
	if m == nil || strings.Contains(string(out), "Non-2xx") {
		return 0, fmt.Errorf("run wrk: %s", out)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if unit, ok := map[string]float64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[m[2]]; ok {
		v *= unit / 1e6
	}
	return v, err
}

// checks lets every device ask once, 200 at a time: a connection of its own, the next root, which
// is not there, and the timestamp.
func checks(ctx context.Context, url string) ([]time.Duration, error) {
	took := make([]time.Duration, devices)
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range 200 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= devices || ctx.Err() != nil {
					return
				}
				began := time.Now()
				if err := check(ctx, url); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	return took, errors.Join(failed, ctx.Err())
}

func check(ctx context.Context, url string) error {
	t := &http.Transport{DisableCompression: true}
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t}
	for _, r := range []struct {
		path   string
		status int
	}{{"/metadata/2.root.json", http.StatusNotFound}, {"/metadata/timestamp.json", http.StatusOK}} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+r.path, nil)
		if err != nil {
			return err
		}
		res, err := c.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != r.status {
			return fmt.Errorf("check %s: %s, %w", r.path, res.Status, err)
		}
	}
	return nil
}

func (l *lab) startOurs(ctx context.Context, dir, repo string) (string, func(), error) {
	address, err := freeAddress()
	if err != nil {
		return "", nil, err
	}
	c := command.Cmd{Argv: []string{filepath.Join(l.bin, "os-update-daemon"), "serve", "--repo", repo, "--listen", address, "--metrics", ""}}
	return started(ctx, dir, address, c)
}

func (l *lab) startNginx(ctx context.Context, dir, repo string) (string, func(), error) {
	address, err := freeAddress()
	if err != nil {
		return "", nil, err
	}
	conf := fmt.Sprintf(`worker_processes auto;
daemon off;
pid %[1]s/nginx.pid;
error_log stderr;
worker_rlimit_nofile 65536;
events { worker_connections 4096; }
http {
	access_log /dev/stderr combined;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server { listen %[2]s; root %[3]s; }
}
`, dir, address, repo)
	if os.Geteuid() == 0 {
		conf = "user nobody nogroup;\n" + conf
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return "", nil, err
	}
	return started(ctx, dir, address, l.tree.Command("nginx", "-e", "stderr", "-c", file))
}

// started runs a server until stop is called. What it logs goes to a file.
func started(ctx context.Context, dir, address string, c command.Cmd) (url string, stop func(), err error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return "", nil, errors.Join(err, log.Close())
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // by the signal below
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		log.Close()
	}
	for range 600 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return "http://" + address, stop, nil
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			return "", nil, fmt.Errorf("start %s: it ended: %s", c.Argv[len(c.Argv)-1], text)
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	return "", nil, fmt.Errorf("start %s: it does not listen", c.Argv[0])
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
