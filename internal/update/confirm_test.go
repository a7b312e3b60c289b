package update

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
)

func TestConfirmAsksOnlyInATrial(t *testing.T) {
	l := newLab(t)
	l.wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			t.Errorf("asked for %s though nothing is on trial", r.URL.Path)
		})
	}
	res, err := l.u.Confirm(t.Context())
	if err != nil || res.Trial || res.Asked != 0 {
		t.Errorf("Confirm of a committed slot = %+v, %v", res, err)
	}
}

func TestConfirmWaitsForTheServer(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	refusals := 5
	l.wrap = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if refusals--; refusals >= 0 {
				http.Error(w, "not yet", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	res, err := l.u.Confirm(t.Context())
	if err != nil || res.Server != l.server.URL || res.Asked < 2 {
		t.Errorf("Confirm = %+v, %v, want an answer after some", res, err)
	}
	if n := strings.Count(l.notes.String(), "does not confirm"); n != 1 {
		t.Errorf("said %d times why it waits, want once:\n%s", n, l.notes)
	}
	// Confirming is not committing.
	if s := l.state(); s.B.Status != bootstate.Trial || s.Default != "a" {
		t.Errorf("state = %+v, want the trial", s)
	}
}

// An image may be configured for another server than the one it was tried from.
func TestConfirmByWhereTheImageCameFrom(t *testing.T) {
	l := newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	const nobody = "http://127.0.0.1:1"
	l.u.Config.Server = nobody
	res, err := l.u.Confirm(t.Context())
	if err != nil || res.Server != l.server.URL {
		t.Errorf("Confirm = %+v, %v, want %s", res, err, l.server.URL)
	}
	if !strings.Contains(l.notes.String(), nobody+" does not confirm") {
		t.Errorf("said %q, want why the configured server does not", l.notes)
	}
}

// An image whose root of trust does not fit the repository is as lost as one without
// a network.
func TestConfirmNeedsMetadataThatIsTrusted(t *testing.T) {
	l, other := newLab(t), newLab(t)
	l.publish("2")
	l.apply(ApplyOptions{})
	l.kexec()
	l.u.Trust.Root = filepath.Join(other.keys, repository.RootFile)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	res, err := l.u.Confirm(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || res.Server != "" || res.Asked == 0 {
		t.Errorf("Confirm = %+v, %v, want no answer until the end", res, err)
	}
}

func TestConfirmers(t *testing.T) {
	for _, c := range []struct {
		name, config string
		trial        *slot.Attempt
		want         []string
	}{
		{"none", "", nil, []string{}},
		{"the same over ssh, written in two ways", "fleet@host", &slot.Attempt{Server: "ssh://fleet@host"}, []string{"fleet@host"}},
		{"configured", "https://a/x", nil, []string{"https://a/x"}},
		{"the same", "https://a", &slot.Attempt{Server: "https://a"}, []string{"https://a"}},
		{"another", "https://a", &slot.Attempt{Server: "http://b"}, []string{"https://a", "http://b"}},
		{"record of an older system", "https://a", &slot.Attempt{}, []string{"https://a"}},
	} {
		s := &session{Updater: &Updater{Config: Config{Server: c.config}}}
		s.d.Record.Trial = c.trial
		if got := s.confirmers(); !slices.Equal(got, c.want) {
			t.Errorf("%s: confirmers = %q, want %q", c.name, got, c.want)
		}
	}
}
