// Package s3test gives tests a real S3 server: the Versity gateway over a folder.
//
// [Start] is the one call. The program is built once by the Go command and cached beside the
// tools tree; tests in several processes may ask for it at once.
package s3test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/toolstree"
)

// version of the gateway. Raise it together with a look at its release notes.
const version = "v1.8.0"

const program = "github.com/versity/versitygw/cmd/versitygw@" + version

// Credentials of the server, which [Start] also puts into the environment of the test.
const (
	AccessKey = "test"
	SecretKey = "test-secret"
)

// Start runs a server until the test ends, and points AWS_ENDPOINT_URL and the other variables
// to it. It returns its address, http://HOST:PORT. Buckets are for the caller to make.
func Start(tb testing.TB) string {
	tb.Helper()
	gateway, err := build(tb)
	if err != nil {
		tb.Fatalf("get an S3 server to test with: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	for _, d := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	var log bytes.Buffer
	// Not every file system that tests run on has extended attributes.
	c := exec.Command(gateway, "--port", address, "--access", AccessKey, "--secret", SecretKey,
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	c.Stdout, c.Stderr = &log, &log
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if tb.Failed() {
			tb.Logf("S3 server:\n%s", log.Bytes()[max(0, log.Len()-4096):])
		}
	})
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": "http://" + address, "AWS_ENDPOINT_URL_S3": "", "AWS_REGION": "us-east-1",
		"AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey, "AWS_SESSION_TOKEN": "",
	} {
		tb.Setenv(name, value)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if res, err := http.Get("http://" + address + "/"); err == nil {
			res.Body.Close()
			return "http://" + address
		} else if time.Now().After(deadline) {
			tb.Fatalf("the S3 server does not answer: %v", err)
		}
	}
}

// build returns the program, after building it where the cache has none.
func build(tb testing.TB) (string, error) {
	cache, err := toolstree.CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "test-versitygw-"+version)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(bin); !errors.Is(err, os.ErrNotExist) {
		return bin, err
	}
	// Built aside and renamed: half a program must not look like one.
	tmp, err := os.MkdirTemp(cache, "test-versitygw.new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	c := exec.CommandContext(tb.Context(), "go", "install", "-trimpath", "-ldflags=-s -w", program)
	c.Env = append(os.Environ(), "GOBIN="+tmp, "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return bin, os.Rename(tmp, dir)
}
