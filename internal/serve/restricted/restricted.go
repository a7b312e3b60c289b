// Package restricted is what a device's ssh key can do on an update server: read, and nothing else.
//
// [Parse] turns the command a client sent into a [Request], or refuses it; [Command.Run] carries a
// request out. A device of this system asks for HTTP over its ssh connection and gets what package
// serve would serve; ranges, caching and verification are the same as over TLS. A device of the
// system that this one replaces asks for a file, by cat.
//
// No shell, no other program and no privilege is used. Files are opened below their folder: no
// symbolic link and no ".." leads out of it. The package does not look at keys, which is sshd's
// part (see os-update-restricted(8)).
package restricted

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"

	"github.com/OSInside/eos/internal/serve"
)

// A Command carries out requests of one connection.
type Command struct {
	Repo   string       // folder of the repository
	Images string       // folder of image files, as [ImagesDir]
	Log    *slog.Logger // gets what was asked for and what came of it
	Stdin  *os.File
	Stdout *os.File
}

// errAbsent is the answer of test -e.
var errAbsent = errors.New("not there")

// IsAbsent says whether err means that the file of an Exist request is not there, which is an
// answer and no failure.
func IsAbsent(err error) bool { return errors.Is(err, errAbsent) }

// Run carries out a request.
func (c *Command) Run(ctx context.Context, r Request) error {
	switch r.Op {
	case HTTP:
		h, err := serve.New(c.Repo, c.Log)
		if err != nil {
			return err
		}
		defer h.Close()
		return serve.RunConn(ctx, newConn(c.Stdin, c.Stdout), http.Handler(h), serve.Options{Log: c.Log})
	case Cat, Exist:
		return c.file(r)
	}
	return fmt.Errorf("internal error: request %+v", r)
}

func (c *Command) file(r Request) error {
	root, err := os.OpenRoot(c.Images)
	if err != nil {
		return fmt.Errorf("open images: %w", err)
	}
	defer root.Close()
	f, err := root.Open(r.Name)
	if errors.Is(err, fs.ErrNotExist) && r.Op == Exist {
		return errAbsent
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("open %s: not a file", r.Name)
	}
	if r.Op == Exist {
		return nil
	}
	n, err := io.Copy(c.Stdout, f)
	c.Log.Info("sent", "file", r.Name, "bytes", n, "size", info.Size())
	if err != nil {
		return fmt.Errorf("send %s: %w", r.Name, err)
	}
	return nil
}
