package image

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/slotimage"
	"github.com/OSInside/eos/internal/toolstree"
)

// squashOptions are all options that decide the bytes of the file system. The
// block size is small enough for a change to stay local.
func squashOptions(level int, epoch int64) []string {
	at := strconv.FormatInt(epoch, 10)
	return []string{
		"-comp", "zstd", "-Xcompression-level", strconv.Itoa(level), "-b", "131072",
		"-reproducible", "-mkfs-time", at, "-xattrs",
		// It does not take those of the root folder from the archive.
		"-root-mode", "0755", "-root-uid", "0", "-root-gid", "0", "-root-time", at,
		"-no-progress", "-quiet",
	}
}

// squash writes the tree as a squashfs, or takes it from the cache, and
// returns its path there.
func squash(ctx context.Context, tools *toolstree.Tree, t *tree, digest [32]byte, level int, epoch int64, cache string, fresh bool) (string, error) {
	options := squashOptions(level, epoch)
	encoder, err := tools.Version("squashfs-tools")
	if err != nil {
		return "", fmt.Errorf("make file system: %w", err)
	}
	out := filepath.Join(cache, "squashfs-"+keyOf("squashfs 1", encoder, fmt.Sprintf("%x", digest),
		strings.Join(options, " "))[:16])
	if _, err := os.Stat(out); err == nil && !fresh {
		return out, nil
	}
	tmp, err := os.MkdirTemp(cache, "squashfs.new-")
	if err != nil {
		return "", fmt.Errorf("make file system: %w", err)
	}
	defer os.RemoveAll(tmp)
	result := filepath.Join(tmp, "root")
	r, w := io.Pipe()
	// It refuses the options for times beside the variable.
	cmd := tools.Command(append([]string{"env", "-u", "SOURCE_DATE_EPOCH", "sqfstar"}, append(options, result)...)...)
	cmd.Stdin = r
	wrote := make(chan error, 1)
	go func() {
		err := t.writeTar(w)
		w.CloseWithError(err)
		wrote <- err
	}()
	err = command.Run(ctx, cmd)
	r.CloseWithError(errors.New("sqfstar has ended"))
	if werr := <-wrote; err == nil && werr != nil {
		err = werr
	}
	if err != nil {
		return "", fmt.Errorf("make file system: %w", err)
	}
	return out, moveFile(result, out)
}

// assemble turns the file system into the signed slot image out.
func assemble(ctx context.Context, squashfs, out string, m slotimage.Manifest, signer ed25519.PrivateKey) (*slotimage.Manifest, error) {
	m.Salt = sha256.Sum256([]byte("EOS slot salt v1\x00" + m.BuildID))
	var result *slotimage.Manifest
	tmp := out + ".new"
	defer os.Remove(tmp)
	err := func() error {
		src, err := os.Open(squashfs)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		n, err := io.Copy(dst, src)
		if err == nil {
			result, err = slotimage.Assemble(ctx, dst, n, m, signer)
		}
		return errors.Join(err, dst.Close())
	}()
	if err != nil {
		return nil, fmt.Errorf("make slot image: %w", err)
	}
	return result, os.Rename(tmp, out)
}

// copySparse copies src into dst at an offset and leaves holes where src has
// only zeros.
func copySparse(dst io.WriterAt, at int64, src io.Reader) (int64, error) {
	buf := make([]byte, 1<<20)
	zero := make([]byte, 4096)
	var total int64
	for {
		n, err := io.ReadFull(src, buf)
		for off := 0; off < n; off += len(zero) {
			block := buf[off:min(off+len(zero), n)]
			if bytes.Equal(block, zero[:len(block)]) {
				continue
			}
			if _, err := dst.WriteAt(block, at+total+int64(off)); err != nil {
				return total, err
			}
		}
		total += int64(n)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
