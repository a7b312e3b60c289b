// Package fetch has podman fetch a container from a registry, and does not wait for one that
// does not answer.
//
// [Pull] is the one call. Podman itself asks four times, each time for as long as the kernel
// tries to connect; here a registry has [Patience] to say its first word, and what podman says
// of a network that does not get there ends it. After the first word it may take its time.
//
// What may be fetched, and whose signatures are wanted, is podman's to know. A pull that is
// cut leaves what podman leaves, which its next pull uses.
package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/OSInside/eos/internal/command"
)

// Patience is how long a registry has to say its first word.
const Patience = 20 * time.Second

// Reasons for a container that cannot be had.
var (
	ErrUnreachable = errors.New("the registry does not answer")
	ErrPolicy      = errors.New("the policy does not allow it")
)

// Options is what to fetch, and how.
type Options struct {
	Name     string        // of the container
	Command  command.Cmd   // podman pull NAME
	Stderr   io.Writer     // is told what podman says; may be nil
	Patience time.Duration // zero: [Patience]
}

// Pull fetches a container. The error is [ErrUnreachable], [ErrPolicy], or what podman says.
func Pull(ctx context.Context, o Options) error {
	wait := o.Patience
	if wait == 0 {
		wait = Patience
	}
	if isLocal(o.Name) {
		wait = math.MaxInt64 // a large archive takes its time
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(wait, func() { cancel(ErrUnreachable) })
	defer timer.Stop()
	c := o.Command
	c.Stderr = &watch{to: o.Stderr, answered: func() { timer.Stop() }, trouble: cancel}
	if err := command.Run(watched, c); err != nil {
		return fmt.Errorf("pull %s: %w", o.Name, reason(err))
	}
	return nil
}

// isLocal tells whether a name leads to a file.
func isLocal(name string) bool {
	transport, _, _ := strings.Cut(name, ":")
	return slices.Contains([]string{"dir", "oci", "oci-archive", "docker-archive", "docker-daemon", "containers-storage", "sif", "tarball"}, transport)
}

// reason finds out which one it was.
func reason(err error) error {
	var failed *command.Error
	if !errors.As(err, &failed) {
		return err
	}
	switch {
	case isUnreachable(failed.StderrTail):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case strings.Contains(failed.StderrTail, "rejected by policy"):
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return err
}

// unreachable are ends of what Go says of a network.
var unreachable = []string{
	"connection refused", "no such host", "i/o timeout", "network is unreachable", "no route to host",
	"TLS handshake timeout", "context deadline exceeded", "server misbehaving", "connection reset by peer",
}

func isUnreachable(text string) bool {
	for _, u := range unreachable {
		if strings.Contains(text, u) {
			return true
		}
	}
	return false
}

// watch looks at what podman says while it pulls, and hands it on.
type watch struct {
	to       io.Writer
	answered func()      // the registry has said something
	trouble  func(error) // it has not, and podman would try again

	mu    sync.Mutex
	begun []byte
	done  bool
}

// Write takes some of podman's standard error.
func (w *watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = append(w.begun, p...)
	for !w.done {
		line, rest, whole := bytes.Cut(w.begun, []byte("\n"))
		if !whole {
			break
		}
		w.begun = rest
		switch judge(string(line)) {
		case saysAnswered:
			w.done = true
			w.answered()
		case saysTrouble:
			w.done = true
			w.trouble(ErrUnreachable) // podman has said how
		}
	}
	if w.done {
		w.begun = nil
	}
	return w.to.Write(p)
}

type verdict int

const (
	saysNothing verdict = iota
	saysAnswered
	saysTrouble
)

// judge says what a line of podman's means for the question whether the registry answers.
func judge(line string) verdict {
	switch {
	case strings.Contains(line, "etrying in") && isUnreachable(line):
		return saysTrouble
	case strings.HasPrefix(line, "Trying to pull"), strings.Contains(line, "level="), strings.HasPrefix(line, "Resol"), line == "":
		return saysNothing
	}
	return saysAnswered
}
