package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/OSInside/eos/internal/cli"
)

type hinted struct{ error }

func (hinted) Hint() string { return "from a leaf" }

func TestRunEnv(t *testing.T) {
	cause := errors.New("cause")
	tests := []struct {
		name   string
		err    error
		code   int
		stderr string
	}{
		{"ok", nil, 0, ""},
		{"plain", cause, 1, "x: cause\n"},
		{"coded", cli.Refuse(cli.Refused, cause, ""), 4, "x: cause\n"},
		{"hint", cli.Refuse(cli.Locked, cause, "wait"), 5, "x: cause\nhint: wait\n"},
		{"wrapped", fmt.Errorf("open slot: %w", cli.Refuse(cli.Unverified, cause, "h")), 6, "x: open slot: cause\nhint: h\n"},
		{"hint inside", cli.Refuse(cli.Unreachable, cli.Refuse(cli.Failure, cause, "inner"), ""), 7, "x: cause\nhint: inner\n"},
		{"outer code wins", cli.Refuse(cli.Unreachable, cli.Refuse(cli.Failure, cause, ""), "outer"), 7, "x: cause\nhint: outer\n"},
		{"silent", cli.Exit(cli.Available), 10, ""},
		{"exit ok", cli.Exit(cli.OK), 0, ""},
		{"usage", cli.Usagef("bad %d", 1), 2, "x: bad 1\n"},
		{"leaf hint", fmt.Errorf("a: %w", hinted{cause}), 1, "x: a: cause\nhint: from a leaf\n"},
		{"joined", errors.Join(cause, hinted{errors.New("two")}), 1, "x: cause\nx: two\nhint: from a leaf\n"},
		{"joined and coded", cli.Refuse(cli.Refused, errors.Join(cause, errors.New("two")), "h"), 4, "x: cause\nx: two\nhint: h\n"},
		{"two causes, one sentence", fmt.Errorf("a: %w, then %w", cause, errors.New("two")), 1, "x: a: cause, then two\n"},
		{"line breaks", errors.New("one\ntwo\r\n"), 1, "x: one; two\n"},
		{"terminal control", errors.New("a\x1b[2Jb\u009bc"), 1, "x: a?[2Jb?c\n"},
		{"cancelled by itself", fmt.Errorf("fetch: %w", context.Canceled), 1, "x: fetch: context canceled\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := cli.RunEnv("x", &cli.Env{Stderr: &stderr}, func(context.Context, *cli.Env) error { return tt.err })
			if code != tt.code || stderr.String() != tt.stderr {
				t.Errorf("RunEnv(%v) = %d %q, want %d %q", tt.err, code, stderr.String(), tt.code, tt.stderr)
			}
		})
	}
}

func TestRunEnvJSON(t *testing.T) {
	var stderr bytes.Buffer
	code := cli.RunEnv("x", &cli.Env{Stderr: &stderr}, func(_ context.Context, env *cli.Env) error {
		env.JSON = true
		return cli.Refuse(cli.Refused, errors.New(`older "1.0"`), "use --allow-downgrade")
	})
	var got struct {
		Error, Hint string
		Code        int
	}
	if err := json.Unmarshal(stderr.Bytes(), &got); err != nil {
		t.Fatalf("standard error is %q: %v", stderr.String(), err)
	}
	if code != 4 || got.Code != 4 || got.Error != `older "1.0"` || got.Hint != "use --allow-downgrade" {
		t.Errorf("RunEnv = %d, %+v, want code 4 and its error and hint", code, got)
	}
}

func TestPanicIsNotUsage(t *testing.T) {
	var stderr bytes.Buffer
	code := cli.RunEnv("x", &cli.Env{Stderr: &stderr}, func(context.Context, *cli.Env) error { panic("boom") })
	if code != 1 || !strings.Contains(stderr.String(), "x: internal error: boom\n") {
		t.Errorf("RunEnv of a panic = %d %q, want 1 and internal error", code, stderr.String())
	}
}

func TestSignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		var stderr bytes.Buffer
		code := cli.RunEnv("x", &cli.Env{Stderr: &stderr}, func(ctx context.Context, _ *cli.Env) error {
			if err := syscall.Kill(os.Getpid(), sig); err != nil {
				return err
			}
			<-ctx.Done()
			return fmt.Errorf("apply: %w", ctx.Err())
		})
		if code != 130 {
			t.Errorf("RunEnv ended by %s = %d %q, want 130", sig, code, stderr.String())
		}
	}
}

func TestPrintJSON(t *testing.T) {
	var out bytes.Buffer
	if err := cli.PrintJSON(&out, map[string]string{"url": "http://a/?b&c"}); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"url\": \"http://a/?b&c\"\n}\n"; out.String() != want {
		t.Errorf("PrintJSON = %q, want %q", out.String(), want)
	}
	if err := cli.PrintJSON(&out, make(chan int)); err == nil {
		t.Error("PrintJSON(chan) = nil, want an error")
	}
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p := cli.NewProgress(&cli.Env{Stderr: &out}, false)
	p.Add(5) // before any stage: nothing to add to
	p.Stage("make tree", 0)
	p.Stage("write", 2048)
	p.Add(1024)
	p.Note("slow %s", "disk")
	p.Add(1024)
	p.Done()
	p.Done()
	if want := "make tree\nwrite\nslow disk\nwrite: 2.0 KiB in 0.0 s\n"; out.String() != want {
		t.Errorf("progress = %q, want %q", out.String(), want)
	}
}

func TestProgressJSON(t *testing.T) {
	var out bytes.Buffer
	p := cli.NewProgress(&cli.Env{Stderr: &out}, true)
	p.Stage("fetch", 4000)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				p.Add(1)
			}
		})
	}
	wg.Wait()
	p.Note("n")
	p.Done()
	var events []string
	var done float64
	for line := range strings.Lines(out.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		events = append(events, e["event"].(string))
		if e["event"] == "done" {
			done = e["done"].(float64)
		}
	}
	if got := strings.Join(events, " "); got != "stage note done" || done != 4000 {
		t.Errorf("events = %q with %v done, want stage note done and 4000", got, done)
	}
}
