package head

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
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

// Change counts the changes of a LUKS2 header: field seqid of the binary header, LUKS2 on-disk format
// specification 1.1.3, 2.1. A damaged first header has none.
func Change(content []byte) (uint64, bool) {
	if len(content) < 24 || !isLUKS2(content, luksFirst) {
		return 0, false
	}
	return binary.BigEndian.Uint64(content[16:]), true
}

// Outdated tells whether a copy is to be made anew from the header: when that was changed since. A
// header that differs without having been changed is damaged somewhere, perhaps in a key slot that
// was not needed now; then the copy is the good one.
func Outdated(header, kept []byte) (outdated, damaged bool) {
	if bytes.Equal(header, kept) {
		return false, false
	}
	now, ok := Change(header)
	then, had := Change(kept)
	if ok && (!had || now > then) {
		return true, false
	}
	return false, true
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
