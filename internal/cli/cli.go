// Package cli is the boundary between our programs and the people and scripts that call
// them: standard streams and arguments as a value ([Env]), exit codes ([Code]), the form of
// error and hint lines, JSON output and progress.
//
// A program is one line, os.Exit(cli.Run("eos", Main)), and its Main returns an error.
// [Refuse] attaches an exit code and a hint to an error; everything else exits with
// [Failure]. Nothing below cmd/ prints errors or calls os.Exit.
//
// What goes where: results on standard output, everything else on standard error, in lines
// that begin with the program's name, lower case, without a full stop:
//
//	eos: open keys directory: permission denied
//	hint: give another with --keys or $EOS_KEYS
//
// An error that joins several (errors.Join) is printed as one line each. With [Env.JSON]
// set, errors are JSON objects, one a line, with the fields "error", "hint" and "code".
//
// The package parses no flags; the table of exit codes for users is docs/exit-codes.md. It
// reaches net/http (through the progress bar), so eos-init does not use it.
//
// A [Progress] may be used by several goroutines at once, an [Env] is read-only once Main
// has parsed its arguments.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Env is what a program gets from the world, so that tests can give it another one.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Args           []string // without the program's name
	Getenv         func(string) string
	JSON           bool // errors are printed as JSON; a program sets it when it has seen --json
}

// System returns the Env of this process.
func System() *Env {
	return &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Args: os.Args[1:], Getenv: os.Getenv}
}

// Run runs a program's main in this process's [Env] and returns its exit status. The
// context ends with SIGINT, SIGTERM and SIGHUP; a second one of them kills the process.
func Run(name string, main func(ctx context.Context, env *Env) error) int {
	return RunEnv(name, System(), main)
}

// RunEnv is [Run] with another Env.
func RunEnv(name string, env *Env, main func(ctx context.Context, env *Env) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	defer context.AfterFunc(ctx, stop)()

	err := protect(ctx, env, main)
	code := codeOf(err)
	if code == Failure && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		code = Interrupted
	}
	report(env, name, err, code)
	return int(code)
}

// protect turns a panic into an error: Go's own exit status for it, 2, means "usage" to
// our callers.
func protect(ctx context.Context, env *Env, main func(context.Context, *Env) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			fmt.Fprintf(env.Stderr, "%s\n", debug.Stack())
			err = Refuse(Failure, fmt.Errorf("internal error: %v", v), "please report this with the lines above")
		}
	}()
	return main(ctx, env)
}

// report prints the error lines of err.
func report(env *Env, name string, err error, code Code) {
	for _, e := range split(err) {
		text := oneLine(e.Error())
		if silent(e) {
			continue
		}
		hint := hintOf(e)
		if env.JSON {
			// An error that cannot be written has nowhere else to go.
			_ = json.NewEncoder(env.Stderr).Encode(struct {
				Error string `json:"error"`
				Hint  string `json:"hint,omitempty"`
				Code  int    `json:"code"`
			}{text, hint, int(code)})
			continue
		}
		fmt.Fprintf(env.Stderr, "%s: %s\n", name, text)
		if hint != "" {
			fmt.Fprintf(env.Stderr, "hint: %s\n", hint)
		}
	}
}

// split returns the parts of a joined error, or the error itself. An *Error around a
// joined error hands its hint to the last part.
func split(err error) []error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok {
		parts := split(e.Err)
		if len(parts) < 2 {
			return []error{err}
		}
		last := len(parts) - 1
		if e.Hint != "" {
			parts[last] = &Error{Code: e.Code, Err: parts[last], Hint: e.Hint}
		}
		return parts
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	// fmt.Errorf with two %w also has this method, but is a sentence of its own.
	parts := joined.Unwrap()
	var texts []string
	for _, p := range parts {
		texts = append(texts, p.Error())
	}
	if err.Error() != strings.Join(texts, "\n") {
		return []error{err}
	}
	var all []error
	for _, p := range parts {
		all = append(all, split(p)...)
	}
	return all
}

// oneLine keeps an error on one line, whatever a library or a server put into it, and
// keeps terminal control characters out of it.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// PrintJSON writes v as indented JSON, for people and for jq alike.
func PrintJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}
