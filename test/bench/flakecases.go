package main

import (
	"context"
	"fmt"
)

// once is a contender that is one command line.
func (h *flakeHost) once(name string, argv ...string) contender {
	return timed(name, func(ctx context.Context) error { return h.run(ctx, argv...) })
}

// podmanRun is what one would type instead of a flake's name.
func podmanRun(program string, more ...string) []string {
	argv := append([]string{podman, "run", "--rm"}, given...)
	return append(append(argv, more...), "--entrypoint", program, baseImage)
}

const theOriginal = "the original's commands"

// flakeStarts: a plain flake, podman run, and what the original did.
func flakeStarts(ctx context.Context, h *flakeHost) ([]flakeCase, error) {
	s, err := h.rounds(ctx, []contender{
		h.once("plain flake", app("plain")),
		h.once("podman run --rm", podmanRun("/bin/true")...),
		h.once("podman run --rm --init", podmanRun("/bin/true", "--init", "--init-path=/usr/bin/tini-static")...),
		timed(theOriginal, h.oldPlain),
	})
	if err != nil {
		return nil, err
	}
	return []flakeCase{
		compare("plain flake", "seconds", s[0], s[1]).atMost(1.05),
		compare("plain flake", "seconds", s[0], s[2]),
		compare("plain flake", "seconds", s[0], s[3]),
	}, nil
}

// flakeResumes: a flake whose container runs, podman exec, and what the original did.
func flakeResumes(ctx context.Context, h *flakeHost) ([]flakeCase, error) {
	s, err := h.rounds(ctx, []contender{
		h.once("warm resume flake", app("keep")),
		h.once("podman exec", podman, "exec", "--interactive", h.keep, "/bin/true"),
		timed(theOriginal, h.oldResume),
	})
	if err != nil {
		return nil, err
	}
	return []flakeCase{
		compare("warm resume flake", "seconds", s[0], s[1]).atMost(0.5),
		compare("warm resume flake", "seconds", s[0], s[2]),
	}, nil
}

// flakeDeltas: flakes with a layer upon a base, a plain one of that base, and what the original
// did. What the first start of each takes, which puts it together, is a case of its own.
func flakeDeltas(ctx context.Context, h *flakeHost) ([]flakeCase, error) {
	large, small := fmt.Sprintf("delta flake, %d files", largeFiles), fmt.Sprintf("delta flake, %d files", smallFiles)
	var firsts []flakeCase
	for _, x := range []struct{ name, app string }{{large, "large"}, {small, "small"}} {
		v, err := h.once(x.name, app(x.app)).run(ctx)
		if err != nil {
			return nil, err
		}
		s := series{Samples: []float64{v}}
		s.summarise(x.name)
		firsts = append(firsts, flakeCase{Name: x.name + ", the very first start", Unit: "seconds", Ours: s})
	}
	s, err := h.rounds(ctx, []contender{
		h.once(large, app("large")),
		h.once("plain flake, same base", app("plain")),
		h.once(small, app("small")),
	})
	if err != nil {
		return nil, err
	}
	// What it copies goes to disk for a while: nothing that is closer is measured beside it.
	old, err := h.rounds(ctx, []contender{h.once(large, app("large")), timed(theOriginal, h.oldDelta)})
	if err != nil {
		return nil, err
	}
	return append([]flakeCase{
		compare(large, "seconds", s[0], s[1]).atMostMore(0.020),
		compare(small, "seconds", s[2], s[1]).atMostMore(0.020),
		compare(large, "seconds", old[0], old[1]),
	}, firsts...), nil
}

// flakePrograms counts the programs that each start takes, those of podman and of the
// container among them.
func flakePrograms(ctx context.Context, h *flakeHost) ([]flakeCase, error) {
	flake := func(name string) func(context.Context) error {
		return func(ctx context.Context) error { return h.run(ctx, app(name)) }
	}
	counts := func(name string, run func(context.Context) error) contender {
		return contender{name, func(ctx context.Context) (float64, error) { return h.count(ctx, run) }}
	}
	plain := func(ctx context.Context) error { return h.run(ctx, podmanRun("/bin/true")...) }
	s, err := h.rounds(ctx, []contender{
		counts("plain flake", flake("plain")),
		counts("podman run --rm", plain),
		counts(theOriginal, h.oldPlain),
		counts("delta flake", flake("large")),
		counts(theOriginal, h.oldDelta),
		counts("warm resume flake", flake("keep")),
		counts("podman exec", func(ctx context.Context) error {
			return h.run(ctx, podman, "exec", "--interactive", h.keep, "/bin/true")
		}),
		counts(theOriginal, h.oldResume),
	})
	if err != nil {
		return nil, err
	}
	const unit = "programs"
	return []flakeCase{
		compare("plain flake, programs started", unit, s[0], s[1]), compare("plain flake, programs started", unit, s[0], s[2]),
		compare("delta flake, programs started", unit, s[3], s[4]),
		compare("warm resume flake, programs started", unit, s[5], s[6]), compare("warm resume flake, programs started", unit, s[5], s[7]),
	}, nil
}

// flakeStreams sends much through a flake, and through podman.
func flakeStreams(ctx context.Context, h *flakeHost) ([]flakeCase, error) {
	through := func(name string, argv ...string) contender {
		return contender{name, func(ctx context.Context) (float64, error) { return h.throughput(ctx, argv) }}
	}
	s, err := h.rounds(ctx, []contender{
		through("plain flake", app("cat")),
		through("podman run -i --rm, default log driver", podmanRun("/bin/cat")...),
		through("podman run -i --rm --log-driver=none", podmanRun("/bin/cat", "--log-driver=none")...),
	})
	if err != nil {
		return nil, err
	}
	const name = "1 GB from standard input to output"
	return []flakeCase{
		compare(name, "MB/s", s[0], s[1]).atLeast(0.95),
		compare(name, "MB/s", s[0], s[2]).atLeast(0.95),
	}, nil
}
