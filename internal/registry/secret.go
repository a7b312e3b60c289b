package registry

import (
	"context"
	"crypto/rand"
	"os"

	"github.com/OSInside/eos/internal/command"
	"golang.org/x/sys/unix"
)

// secret is a key in memory, which programs read as a file that has no name: it is neither on a disk
// nor in an argument.
type secret struct{ f *os.File }

// secretPath is how a program finds the one file that it is given.
const secretPath = "/proc/self/fd/3"

func newSecret(key []byte) (*secret, error) {
	fd, err := unix.MemfdCreate("eos-registry-key", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "key")
	if err := f.Chmod(0o600); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Write(key); err != nil {
		f.Close()
		return nil, err
	}
	return &secret{f}, nil
}

// randomSecret is a key of 512 bits.
func randomSecret() (*secret, []byte, error) {
	key := make([]byte, keyBytes)
	rand.Read(key) // does not fail
	s, err := newSecret(key)
	return s, key, err
}

func (k *secret) Close() error { return k.f.Close() }

// run runs a program that reads the key from secretPath.
func (k *secret) run(ctx context.Context, argv ...string) error {
	return run(ctx, command.Cmd{Argv: argv, Files: []*os.File{k.f}})
}
