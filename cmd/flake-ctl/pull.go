package main

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

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/command"
)

// patience is how long a registry has to say its first word. podman itself asks four times,
// each time for as long as the kernel tries to connect.
const patience = 20 * time.Second

var errNoAnswer = errors.New("the registry does not answer")

func (a *app) pull() *cobra.Command {
	var uri string
	c := &cobra.Command{
		Use: "pull", Short: "Fetch a container from a registry", Args: cobra.NoArgs,
		Long: `Has podman fetch a container. Which registries it may ask, and whose signatures it wants, is
up to the settings of the image. A registry that does not answer is not waited for.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runPull(cmd.Context(), uri) },
	}
	c.Flags().StringVar(&uri, "uri", "", "`name` of the container with its registry")
	_ = c.MarkFlagRequired("uri")
	_ = c.RegisterFlagCompletionFunc("uri", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) runPull(ctx context.Context, uri string) error {
	if uri == "" || strings.HasPrefix(uri, "-") {
		return cli.Usagef("--uri: %q is not the name of a container", uri)
	}
	w, err := a.where(a.user)
	if err != nil {
		return err
	}
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wait := a.at.patience
	if isLocal(uri) {
		wait = math.MaxInt64 // a large archive takes its time
	}
	timer := time.AfterFunc(wait, func() { cancel(errNoAnswer) })
	defer timer.Stop()
	c := a.podman(w, "pull", uri)
	c.Stdout, c.Stderr = a.env.Stdout, &watch{to: a.env.Stderr, answered: func() { timer.Stop() }, trouble: cancel}
	if err := command.Run(watched, c); err != nil {
		return a.pullError(uri, err)
	}
	a.prune(ctx, w)
	return nil
}

// isLocal tells whether a name leads to a file.
func isLocal(uri string) bool {
	transport, _, _ := strings.Cut(uri, ":")
	return slices.Contains([]string{"dir", "oci", "oci-archive", "docker-archive", "docker-daemon", "containers-storage", "sif", "tarball"}, transport)
}

// prune removes what the container was before, if it has no name any more.
func (a *app) prune(ctx context.Context, w where) {
	if err := command.Run(ctx, a.podman(w, "image", "prune", "--force")); err != nil {
		a.note("the container is there; remove what it replaced: %v", err)
	}
}

// pullError gives the error its code.
func (a *app) pullError(uri string, err error) error {
	err = fmt.Errorf("pull %s: %w", uri, err)
	var failed *command.Error
	text := err.Error()
	if errors.As(err, &failed) {
		text = failed.StderrTail
	}
	switch {
	case errors.Is(err, errNoAnswer) || isUnreachable(text):
		return cli.Refuse(cli.Unreachable, err, "is the network up, and the name of the registry right?")
	case strings.Contains(text, "rejected by policy"):
		return cli.Refuse(cli.Refused, err, "/etc/containers/policy.json says what may be fetched; it comes with the image description")
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
			w.trouble(errNoAnswer) // podman has said how
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
