package fetch_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake/fetch"
)

// Programs in the place of podman that say what it says.
func TestPull(t *testing.T) {
	const trying = "echo 'Trying to pull reg.example.com/app...' >&2; "
	for _, c := range []struct {
		name, image, script string
		want                error
		text                string
		quick               bool // it ends before the program would
	}{
		{"good", "app", trying + "echo 'Getting image source signatures' >&2; echo id", nil, "", false},
		{"slow after the first word", "app", trying + "echo 'Getting image source signatures' >&2; sleep 0.6", nil, "", false},
		{"silent", "app", trying + "sleep 20", fetch.ErrUnreachable, "", true},
		{"tries again", "app", trying + `echo 'level=warning msg="Failed, retrying in 1s ... (1/3). Error: dial tcp: connection refused"' >&2; sleep 20`, fetch.ErrUnreachable, "", true},
		{"gone", "app", "echo 'Error: dial tcp 127.0.0.1:1: connect: connection refused' >&2; exit 125", fetch.ErrUnreachable, "refused", false},
		{"no name", "app", "echo 'Error: lookup x: no such host' >&2; exit 125", fetch.ErrUnreachable, "no such host", false},
		{"policy", "app", "echo 'Error: Source image rejected by policy' >&2; exit 125", fetch.ErrPolicy, "", false},
		{"not there", "app", "echo 'Error: manifest unknown' >&2; exit 125", nil, "manifest unknown", false},
		{"a large file", "oci-archive:/x", "sleep 0.6", nil, "", false},
	} {
		var said bytes.Buffer
		start := time.Now()
		err := fetch.Pull(t.Context(), fetch.Options{
			Name: c.image, Command: command.Cmd{Argv: []string{"sh", "-c", c.script}}, Stderr: &said, Patience: 300 * time.Millisecond,
		})
		bad := c.want != nil || c.text != ""
		if (err != nil) != bad || c.want != nil && !errors.Is(err, c.want) || err != nil && (!strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "pull "+c.image+": ")) {
			t.Errorf("%s: Pull = %v, want %v, %q", c.name, err, c.want, c.text)
		}
		if took := time.Since(start); c.quick && took > 10*time.Second {
			t.Errorf("%s: took %v", c.name, took)
		}
		if strings.Contains(c.script, trying) && !strings.Contains(said.String(), "Trying to pull") {
			t.Errorf("%s: of what podman says %q is handed on", c.name, said.String())
		}
	}
}
