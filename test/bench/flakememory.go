package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// maxPilot is the memory that the pilot may have while an application runs.
const maxPilot = 15 << 20

// flakeMemory looks at what stands beside an application that runs.
func flakeMemory(ctx context.Context, h *flakeHost) ([]flakeCase, error) {
	var out []flakeCase
	for _, x := range []struct {
		name, beside string
		ours, other  []string
	}{
		{"plain flake", "podman run --rm", []string{app("cat")}, podmanRun("/bin/cat")},
		{"warm resume flake", "podman exec", []string{app("keepcat")}, []string{podman, "exec", "--interactive", h.keep, "/bin/cat"}},
	} {
		seen := map[string]*series{}
		var order []string
		sums := func(name string, argv []string) contender {
			return contender{name, func(ctx context.Context) (float64, error) {
				got, err := h.memory(ctx, argv)
				total := 0.0
				for _, m := range got {
					key := name + ": " + m.program
					if seen[key] == nil {
						seen[key], order = &series{}, append(order, key)
					}
					seen[key].Samples = append(seen[key].Samples, m.bytes)
					total += m.bytes
				}
				return total, err
			}}
		}
		s, err := h.rounds(ctx, []contender{sums(x.name, x.ours), sums(x.beside, x.other)})
		if err != nil {
			return nil, err
		}
		out = append(out, compare(x.name+", memory of all beside the application", "bytes", s[0], s[1]))
		slices.Sort(order)
		for _, key := range order {
			one := *seen[key]
			if len(one.Samples) != warmUp+h.job.Rounds {
				return nil, fmt.Errorf("%s was there %d times in %d rounds", key, len(one.Samples), warmUp+h.job.Rounds)
			}
			one.Samples = one.Samples[warmUp:]
			one.summarise(key)
			c := flakeCase{Name: "memory of " + key, Unit: "bytes", Ours: one}
			if key == x.name+": "+pilotName {
				c = c.within(maxPilot)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// used is the memory of a program.
type used struct {
	program string
	bytes   float64
}

// helpers are the programs that stand between a caller and the application.
var helpers = []string{pilotName, watcherName, "podman", "conmon", "crun"}

// memory starts a program that hands on what it reads, and looks at what there is when it
// has done so.
func (h *flakeHost) memory(ctx context.Context, argv []string) ([]used, error) {
	p, err := h.pipe(ctx, argv)
	if err != nil {
		return nil, err
	}
	defer p.end()
	one := []byte("x")
	if _, err := p.in.Write(one); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(p.out, one); err != nil {
		return nil, p.failed(err)
	}
	time.Sleep(100 * time.Millisecond) // until all are at rest
	var out []used
	for todo := h.left(); len(todo) > 0; todo = todo[1:] {
		todo = append(todo, children(todo[0])...)
		name := program(todo[0])
		if !slices.Contains(helpers, name) {
			continue
		}
		bytes, err := resident(todo[0])
		if err != nil {
			return nil, err
		}
		out = append(out, used{name, bytes})
	}
	if err := p.in.Close(); err != nil {
		return nil, err
	}
	return out, p.wait()
}
