package head

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
)

// The copy of the head on the boot partition: magic, SHA-256 of the head, zeros up to aboutSize, the
// head.
const aboutSize = 4096

var copyMagic = []byte("EOS registry header 1\n")

// ErrNoCopy says that there is no copy; any other error that it is damaged.
var (
	ErrNoCopy    = errors.New("there is no copy of the registry's header on the boot partition")
	errCopyWrong = errors.New("the copy of the registry's header on the boot partition is damaged")
)

// MarshalCopy returns what the boot partition keeps of a head.
func MarshalCopy(head []byte) []byte {
	b := make([]byte, aboutSize+len(head))
	sum := sha256.Sum256(head)
	copy(b[copy(b, copyMagic):], sum[:])
	copy(b[aboutSize:], head)
	return b
}

// ParseCopy returns the head in a copy.
func ParseCopy(b []byte) ([]byte, error) {
	if len(b) != aboutSize+Size {
		return nil, fmt.Errorf("%w: it has %d bytes", errCopyWrong, len(b))
	}
	if len(bytes.Trim(b[:sector], "\x00")) == 0 {
		return nil, ErrNoCopy
	}
	rest, ok := bytes.CutPrefix(b[:aboutSize], copyMagic)
	if !ok {
		return nil, errCopyWrong
	}
	head := b[aboutSize:]
	if sum := sha256.Sum256(head); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, errCopyWrong
	}
	return head, nil
}
