package imagestore

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
)

// rootMode is that of the root of a layer which does not have its own.
const rootMode = 0o555

// layer is one of the store's layers.
type layer struct {
	below  *layer
	record layerRecord
	root   entry // attributes of the folder that is mounted
}

func (l *layer) depth() int {
	n := 0
	for ; l != nil; l = l.below {
		n++
	}
	return n
}

// link is the short name of a layer, of which dozens fit into the options of a mount.
// podman draws it at random; here it follows from the id.
func (l *layer) link() string {
	h := sha256.Sum256([]byte("EOS container layer link v1\x00" + l.record.ID))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h[:16])
}

// lower lists the layers below, the nearest first.
func (l *layer) lower() string {
	list := ""
	for b := l.below; b != nil; b = b.below {
		if list != "" {
			list += ":"
		}
		list += "l/" + b.link()
	}
	return list
}

// addLayer adds a layer upon another. It is there already if another image has both.
func (s *store) addLayer(below *layer, diff v1.Hash, packed v1.Descriptor, content v1.Layer) (*layer, error) {
	l := &layer{below: below}
	r := &l.record
	if below != nil {
		r.Parent = below.record.ID
	}
	r.ID = chainID(r.Parent, diff)
	if have := s.layers[r.ID]; have != nil {
		return have, nil
	}
	var err error
	if r.Compression, err = compression(packed); err != nil {
		return nil, err
	}
	f, err := plainLayer(s.cache, diff, content)
	if err != nil {
		return nil, err
	}
	s.keep(f)
	files, split, size, err := scan(f, diff)
	if err != nil {
		return nil, err
	}
	r.Created = epoch
	r.CompressedDigest, r.CompressedSize = packed.Digest.String(), packed.Size
	r.Digest, r.Size = diff.String(), size
	r.UIDs, r.GIDs = files.owners()
	l.root = files.root(below)
	s.layers[r.ID] = l
	if err := s.file("overlay-layers/"+r.ID+".tar-split.gz", split); err != nil {
		return nil, err
	}
	return l, s.putLayer(l, files, f)
}

// putLayer puts the files of a layer, which are ranges of f, into the tree.
func (s *store) putLayer(l *layer, files entries, f io.ReaderAt) error {
	dir := "overlay/" + l.record.ID
	if err := s.dirs(dir, dir+"/work"); err != nil {
		return err
	}
	if l.below == nil {
		// What is mounted over nothing needs something below it.
		if err := s.dirs(dir + "/empty"); err != nil {
			return err
		}
	} else if err := s.file(dir+"/lower", []byte(l.lower())); err != nil {
		return err
	}
	if err := s.file(dir+"/link", []byte(l.link())); err != nil {
		return err
	}
	short := File{Type: tar.TypeSymlink, Mode: 0o777, Link: "../" + l.record.ID + "/diff"}
	if err := s.put("overlay/l/"+l.link(), short); err != nil {
		return err
	}
	if err := s.dirs(dir + "/merged"); err != nil {
		return err
	}
	dir += "/diff"
	if err := s.put(dir, l.root.File); err != nil {
		return err
	}
	var links []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		e := files[name]
		switch {
		case name == "":
			continue
		case e.Type == tar.TypeLink:
			links = append(links, name)
			continue
		case e.Type == tar.TypeReg:
			e.Content = io.NewSectionReader(f, e.at, e.size)
		}
		if err := s.put(dir+"/"+name, e.File); err != nil {
			return err
		}
	}
	for _, name := range links {
		e := files[name]
		e.Link = path.Join(Dir, dir, e.Link)
		if err := s.put(dir+"/"+name, e.File); err != nil {
			return err
		}
	}
	return nil
}

// plainLayer opens a layer's plain archive in the cache, after putting it there.
func plainLayer(cache string, diff v1.Hash, content v1.Layer) (*os.File, error) {
	name := filepath.Join(cache, "layer-"+diff.Hex)
	f, err := os.Open(name)
	if err == nil {
		// What is used stays in the cache; when it cannot be marked, it is only fetched again.
		now := time.Now()
		_ = os.Chtimes(name, now, now)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	src, err := content.Uncompressed()
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	defer src.Close()
	tmp, err := os.CreateTemp(cache, filepath.Base(name)+".new-")
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	defer os.Remove(tmp.Name())
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(tmp, h), src)
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if have := hex.EncodeToString(h.Sum(nil)); have != diff.Hex {
		return nil, fmt.Errorf("unpack: its sum is sha256:%s, which is not the one in the configuration", have)
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return os.Open(name)
}

// scan reads a plain layer: its files, what is needed to put the same archive together
// again, and its size.
func scan(f *os.File, diff v1.Hash) (entries, []byte, int64, error) {
	h := sha256.New()
	var split bytes.Buffer
	// Not compressed: the file system the store is in does that better, and a change stays small.
	z, err := stdgzip.NewWriterLevel(&split, stdgzip.NoCompression)
	if err != nil {
		return nil, nil, 0, err
	}
	stream, done, err := asm.NewInputTarStreamWithDone(io.TeeReader(f, h), storage.NewJSONPacker(z), nil)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("read: %w", err)
	}
	counted := &counter{r: stream}
	files, err := readEntries(counted)
	if err == nil {
		_, err = io.Copy(io.Discard, counted)
	}
	stream.Close()
	splitErr := <-done
	switch {
	case errors.Is(splitErr, storage.ErrDuplicatePath):
		return nil, nil, 0, errors.New("read: it has two files of the same name")
	case err != nil:
		return nil, nil, 0, fmt.Errorf("read: %w", err)
	case splitErr != nil:
		return nil, nil, 0, fmt.Errorf("read: %w", splitErr)
	}
	if have := hex.EncodeToString(h.Sum(nil)); have != diff.Hex {
		err := os.Remove(f.Name())
		return nil, nil, 0, errors.Join(fmt.Errorf("read: the copy in the cache has the sum sha256:%s; it is removed, build again", have), err)
	}
	if err := z.Close(); err != nil {
		return nil, nil, 0, fmt.Errorf("read: %w", err)
	}
	return files, split.Bytes(), counted.n, nil
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
