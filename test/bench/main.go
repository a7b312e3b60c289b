// Package bench measures EOS and prints one table: `make bench`, or
//
//	go run ./test/bench [-only build,initramfs,boot,registry,transfer,load,update,flake] [-runs N] [-full] [-json PATH]
//
// It builds images with bin/eos, starts them under the tools tree's QEMU, and sets each figure
// beside what a user would otherwise take: dracut beside eos-init, a full copy beside an update,
// a restart through the firmware beside kexec. docs/bench.md says what each figure means.
//
// It is no test: a slow machine has other figures, not a failure. What does not work at all
// ends it with an error that says so. Images, keys and dracut's initramfs are kept in the cache
// (EOS_CACHE, bench); machines end with the program. Two runs at once would measure each other.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// part is a group of figures that is measured together.
type part struct {
	name    string
	measure func(context.Context, *lab) error
	apart   bool // only when it is asked for: it needs root and podman, and nothing of the lab but its programs
}

// parts in the order of the table.
var parts = []part{
	{name: "build", measure: measureBuild},
	{name: "initramfs", measure: measureInitramfs},
	{name: "boot", measure: measureBoot},
	{name: "registry", measure: measureRegistry},
	{name: "transfer", measure: measureTransfer},
	{name: "load", measure: measureLoad},
	{name: "update", measure: measureUpdate},
	{name: "flake", measure: measureFlake, apart: true},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := run
	if text := os.Getenv(fetchEnv); text != "" {
		run = func(ctx context.Context) error { return fetch(ctx, text) }
	}
	if text := os.Getenv(flakeEnv); text != "" {
		run = func(ctx context.Context) error { return flakeMain(ctx, text) }
	}
	if err := run(ctx); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	only, jsonPath, err := o.parse(os.Args[1:])
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(parts), func(p part) bool {
		return len(only) == 0 && p.apart || len(only) > 0 && !slices.Contains(only, p.name)
	})
	l, err := newLab(ctx, o, slices.ContainsFunc(chosen, func(p part) bool { return !p.apart }))
	if err != nil {
		return err
	}
	defer l.close()
	var failed error
	for _, p := range chosen {
		l.part = p.name
		began := time.Now()
		if err := p.measure(ctx, l); err != nil {
			// The figures up to here are worth printing.
			failed = fmt.Errorf("measure %s: %w", p.name, err)
			break
		}
		l.note("%s measured in %v", p.name, time.Since(began).Round(time.Second))
	}
	if err := l.report.text(os.Stdout); err != nil {
		return err
	}
	return errors.Join(failed, l.report.save(jsonPath))
}

// options are what the flags say.
type options struct {
	runs   int
	rounds int
	full   bool
	tools  bool
	bin    string
}

func (o *options) parse(args []string) (only []string, jsonPath string, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	list := f.String("only", "", "measure only these `parts`, with commas: "+strings.Join(names, ", "))
	f.IntVar(&o.runs, "runs", 3, "how often boots and checks are measured; the figure is the median")
	f.IntVar(&o.rounds, "rounds", 30, "how often a flake is started, and what is set beside it")
	f.BoolVar(&o.full, "full", false, "build images/eos.yaml too")
	f.BoolVar(&o.tools, "tools", false, "let the cold build make a tools tree of its own")
	f.StringVar(&o.bin, "bin", "bin", "`folder` with the programs")
	f.StringVar(&jsonPath, "json", filepath.Join("out", "bench.json"), "write the figures to `file` too")
	if err := f.Parse(args); err != nil {
		return nil, "", err
	}
	if f.NArg() > 0 {
		return nil, "", fmt.Errorf("parse arguments: unexpected %q", f.Arg(0))
	}
	if o.runs < 1 || o.rounds < 1 {
		return nil, "", fmt.Errorf("parse arguments: -runs %d, -rounds %d: want at least 1", o.runs, o.rounds)
	}
	if *list != "" {
		only = strings.Split(*list, ",")
	}
	for _, name := range only {
		if !slices.Contains(names, name) {
			return nil, "", fmt.Errorf("parse arguments: -only %s: want some of %s", name, strings.Join(names, ", "))
		}
	}
	return only, cmp.Or(jsonPath, os.DevNull), nil
}
