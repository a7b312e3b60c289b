package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/OSInside/eos/internal/chunk"
	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/verity"
)

// Read writes the slot image named in the configuration to w: file system,
// manifest block, hash tree. Over http every chunk is verified before it is
// written, and manifest block and hash tree follow only when the root hash is
// the signed one. Over ssh, where the manifest comes behind the data, the image
// is kept in a temporary file and written when all of it was verified. An error
// means that w did not get a whole image. Nothing on the device is changed.
func (u *Updater) Read(ctx context.Context, w io.Writer) error {
	if u.Config.Name == "" {
		return cli.Refuse(cli.Usage, errors.New("no image is named"), "give --read NAME")
	}
	if u.Config.Server == "" {
		return cli.Refuse(cli.Usage, errors.New("no update server is configured"), "set `server:` in "+ConfigFile+" or give --server")
	}
	server, err := ParseServer(u.Config.Server)
	if err != nil {
		return cli.Refuse(cli.Usage, err, "")
	}
	if server.SSH != "" {
		return u.readSSH(ctx, server, w)
	}
	return u.readHTTP(ctx, w)
}

// readSession is a session that also works where there is no device: the
// command is of use on any machine that has the keys.
func (u *Updater) readSession() *session {
	if s, err := u.open(); err == nil && s.manifests[s.d.Running] != nil {
		return s
	}
	return &session{Updater: u, d: slot.Device{}}
}

func (u *Updater) readHTTP(ctx context.Context, w io.Writer) error {
	s := u.readSession()
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	cat, _, err := client.Refresh(ctx)
	if err != nil {
		return clientError(err)
	}
	img, err := s.pickToRead(cat)
	if err != nil {
		return err
	}
	block, err := client.Manifest(ctx, img)
	if err != nil {
		return clientError(err)
	}
	m, err := s.verifyBlock(img, block)
	if err != nil {
		return err
	}
	index, err := client.OpenIndex(ctx, img)
	if err != nil {
		return clientError(err)
	}
	if err := checkIndex(index, m, block); err != nil {
		return unverified(err)
	}
	fetch := client.Fetcher(img)
	defer fetch.Close()
	return u.stream(ctx, w, m, block, index, fetch)
}

// pickToRead is the newest image of the name; the device's own class and
// architecture decide where there are several.
func (s *session) pickToRead(cat *repository.Catalog) (repository.Image, error) {
	if w, err := s.want(); err == nil {
		return pick(cat, w, Choice{})
	}
	var kinds []want
	for _, img := range cat.All() {
		k := want{img.Name, img.Class, img.Arch, repository.Stable}
		if img.Name == s.Config.Name && (s.Config.Class == "" || s.Config.Class == img.Class) && !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	switch len(kinds) {
	case 0:
		return repository.Image{}, noImage(cat, want{name: s.Config.Name, class: s.Config.Class})
	case 1:
		if s.Config.Channel != "" {
			kinds[0].channel = s.Config.Channel
		}
		return pick(cat, kinds[0], Choice{})
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k.class+" ("+k.arch+")")
	}
	return repository.Image{}, cli.Refuse(cli.Refused, fmt.Errorf("image %s is published for classes %s", s.Config.Name, strings.Join(names, ", ")), "set `class:` in the configuration file")
}

// stream writes an image chunk by chunk.
func (u *Updater) stream(ctx context.Context, w io.Writer, m *slotimage.Manifest, block []byte, index *chunk.Index, fetch chunk.Fetcher) error {
	tree, err := verity.NewBuilder(m.VerityParams())
	if err != nil {
		return err
	}
	u.Progress.Stage("read "+m.Name+" "+m.Version, m.DataSize)
	defer u.Progress.Done()
	body, err := fetch.Fetch(ctx, 0, m.DataSize)
	if err != nil {
		return clientError(err)
	}
	defer body.Close()
	buf := make([]byte, index.Max)
	for _, e := range index.Chunks[:len(index.Chunks)-1] {
		data := buf[:e.Size]
		if _, err := io.ReadFull(body, data); err != nil {
			return clientError(fmt.Errorf("read image at %d: %w", e.Offset, err))
		}
		if sum := chunk.Sum(data); sum != e.ID {
			return unverified(&chunk.InvalidError{Entry: e, Sum: sum, Source: "server"})
		}
		if _, err := tree.Write(data); err != nil {
			return unverified(err)
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		u.Progress.Add(e.Size)
	}
	hashes, root, err := tree.Finish()
	if err != nil {
		return unverified(err)
	}
	if root != m.RootHash {
		return unverified(fmt.Errorf("read image: root hash is %x, the manifest says %s", root[:8], m.RootHash))
	}
	for _, b := range [][]byte{block, hashes} {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	}
	return nil
}

func (u *Updater) readSSH(ctx context.Context, server Server, w io.Writer) (err error) {
	if err := u.fetchKey(ctx); err != nil {
		return err
	}
	spool, err := os.CreateTemp("", "os-update-read-*")
	if err != nil {
		return fmt.Errorf("make temporary file: %w", err)
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil { // gone with the last descriptor
		return fmt.Errorf("make temporary file: %w", err)
	}
	u.Progress.Stage("read "+u.Config.Name, 0)
	if err := runSSH(ctx, sshArgv(server, u.Config.PKey, u.Config.Name), &progressWriter{spool, u.Progress}); err != nil {
		return err
	}
	st, err := spool.Stat()
	if err != nil {
		return err
	}
	m, err := slotimage.Read(spool, st.Size(), u.Accepted)
	if err != nil {
		return unverified(fmt.Errorf("read %s: %w", u.Config.Name, err))
	}
	u.Progress.Stage("verify "+m.Name+" "+m.Version, m.DataSize)
	if err := slotimage.Verify(ctx, spool, m, u.Progress.Add); err != nil {
		return unverified(fmt.Errorf("read %s: %w", u.Config.Name, err))
	}
	u.Progress.Done()
	// A stream of a partition has more behind the image; that is not signed.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(spool, 0, m.ImageSize)}, make([]byte, 256<<10))
	if err == nil && n != m.ImageSize {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// progressWriter writes to a file and tells how much.
type progressWriter struct {
	w io.Writer
	p interface{ Add(int64) }
}

func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.p.Add(int64(n))
	return n, err
}
