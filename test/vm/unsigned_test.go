package vm_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/OSInside/eos/internal/key"
	"github.com/OSInside/eos/internal/repository"
)

// unsign takes the signatures out of the one slot manifest of a repository at version 1, and
// signs the repository anew: `eos publish` would not do it.
func (l *lab) unsign(t *testing.T, repo string) {
	t.Helper()
	targetsKey, onlineKey := l.key(t, repository.TargetsKey), l.key(t, repository.OnlineKey)
	found, err := filepath.Glob(filepath.Join(repo, "targets/*/*/*/*.manifest"))
	if err != nil || len(found) != 1 {
		t.Fatalf("manifests in %s: %q, %v, want one", repo, found, err)
	}
	block, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	clear(block[3072:]) // the area of signatures, see docs/design/slot-image.md
	sum := sha256.Sum256(block)
	place := filepath.Join(filepath.Dir(found[0]), hex.EncodeToString(sum[:])+".manifest")
	if err := os.WriteFile(place, block, 0o644); err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(repo, "metadata")
	targets, err := metadata.Targets().FromFile(filepath.Join(dir, "1.targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range targets.Signed.Targets {
		if strings.HasSuffix(name, "/manifest") {
			f.Hashes = metadata.Hashes{"sha256": sum[:]}
		}
	}
	snapshot, err := metadata.Snapshot().FromFile(filepath.Join(dir, "1.snapshot.json"))
	if err != nil {
		t.Fatal(err)
	}
	timestamp, err := metadata.Timestamp().FromFile(filepath.Join(dir, "timestamp.json"))
	if err != nil {
		t.Fatal(err)
	}
	snapshot.Signed.Meta["targets.json"] = signed(t, targets, targetsKey, filepath.Join(dir, "1.targets.json"))
	timestamp.Signed.Meta["snapshot.json"] = signed(t, snapshot, onlineKey, filepath.Join(dir, "1.snapshot.json"))
	signed(t, timestamp, onlineKey, filepath.Join(dir, "timestamp.json"))
}

// key returns a private key by the name of its file.
func (l *lab) key(t *testing.T, file string) ed25519.PrivateKey {
	t.Helper()
	k, err := key.LoadPrivate(filepath.Join(l.keys, file))
	if err != nil {
		t.Fatal(err)
	}
	return k.Key
}

// signed signs metadata, writes it, and describes it for whoever refers to it.
func signed[T metadata.Roles](t *testing.T, m *metadata.Metadata[T], key ed25519.PrivateKey, path string) *metadata.MetaFiles {
	t.Helper()
	s, err := signature.LoadED25519Signer(key)
	if err != nil {
		t.Fatal(err)
	}
	m.ClearSignatures()
	if _, err := m.Sign(s); err != nil {
		t.Fatal(err)
	}
	b, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return &metadata.MetaFiles{Version: 1, Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}
