package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Kinds of what can be wrong with a repository, for errors.Is. Every error of
// a [Client] is one of them or the context's.
var (
	// ErrUnreachable: no answer, or none that is of use. Trying later helps.
	ErrUnreachable = errors.New("repository is not reachable")
	// ErrUntrusted: what was received is not what the trusted keys signed.
	ErrUntrusted = errors.New("repository is not trusted")
	// ErrExpired: the metadata is right but too old. Either the publisher
	// stopped signing, or somebody holds back what is newer, or the clock of
	// this machine is wrong.
	ErrExpired = errors.New("repository metadata has expired")
	// ErrRollback: the metadata is older than what was seen before.
	ErrRollback = errors.New("repository metadata is older than what was seen before")
	// ErrTooLarge: more was sent than the metadata or the limits allow.
	ErrTooLarge = errors.New("answer is too large")
	// ErrTruncated: less was received than the server or the metadata
	// promised, again and again.
	ErrTruncated = errors.New("answer is truncated")
)

// Kinds of what can keep a publisher from publishing.
var (
	// ErrNotRepository: the folder holds something else.
	ErrNotRepository = errors.New("not a repository")
	// ErrLocked: another publisher is at work.
	ErrLocked = errors.New("another publisher holds the lock")
	// ErrNoKeys: a signing key is missing.
	ErrNoKeys = errors.New("signing key is missing")
	// ErrWrongKey: a signing key is not one that the repository's root names.
	ErrWrongKey = errors.New("signing key is not one of this repository")
	// ErrPublished: the version exists already, with other content.
	ErrPublished = errors.New("version is published already, with other content")
	// ErrDamaged: the repository's own metadata does not verify.
	ErrDamaged = errors.New("repository is damaged")
)

// A ClientError is what went wrong for a [Client]: its Kind is one of the
// errors above, What names the file.
type ClientError struct {
	Kind error
	What string
	Err  error
}

func (e *ClientError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("read %s: %v", e.What, e.Kind)
	}
	return fmt.Sprintf("read %s: %v: %v", e.What, e.Kind, e.Err)
}

// Unwrap gives errors.Is both the kind and the cause.
func (e *ClientError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// classify finds the kind of an error of go-tuf or of the transport.
func classify(what string, err error) error {
	var have *ClientError
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	var status *metadata.ErrDownloadHTTP
	var path *fs.PathError
	kind := ErrUntrusted
	switch {
	case err == nil:
		return nil
	case errors.As(err, &have), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &path):
		return fmt.Errorf("keep repository metadata: %w", err)
	case errors.As(err, &status):
		return &ClientError{Kind: ErrUnreachable, What: what, Err: statusError{status.StatusCode}}
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		kind = ErrExpired
	case errors.Is(err, &metadata.ErrBadVersionNumber{}) && !strings.HasSuffix(what, ".root.json"):
		kind = ErrRollback
	case errors.Is(err, &metadata.ErrDownloadLengthMismatch{}):
		kind = ErrTooLarge
	case errors.As(err, &syntax), errors.As(err, &mistyped):
		err = fmt.Errorf("not TUF metadata: %w", err)
	}
	return &ClientError{Kind: kind, What: what, Err: tidy{err}}
}

// tidy makes messages of go-tuf fit ours: no capital first letter, one line.
type tidy struct{ error }

func (t tidy) Error() string {
	s := strings.Join(strings.Fields(t.error.Error()), " ")
	if s != "" && s[0] >= 'A' && s[0] <= 'Z' && !(len(s) > 1 && s[1] >= 'A' && s[1] <= 'Z') {
		s = strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

func (t tidy) Unwrap() error { return t.error }
