package verity_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

var rootLine = regexp.MustCompile(`(?m)^Root hash:\s+([0-9a-f]{64})$`)

// TestAgainstVeritysetup compares tree and root with those that veritysetup
// makes, byte for byte, and has veritysetup check a tree of ours.
func TestAgainstVeritysetup(t *testing.T) {
	tree := toolstreetest.Open(t)
	dir := t.TempDir()
	dataFile, hashFile := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
	salt := bytes.Repeat([]byte{0xa5, 0x5a}, 16)
	for _, n := range edges {
		data := fill(n, 11)
		if err := os.WriteFile(dataFile, data, 0o600); err != nil {
			t.Fatal(err)
		}
		// It makes no file for an empty tree and wants one to exist.
		if err := os.WriteFile(hashFile, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		out := toolstreetest.Output(t, tree, "veritysetup", "format", "--no-superblock",
			"--salt", hex.EncodeToString(salt), dataFile, hashFile)
		want := rootLine.FindStringSubmatch(out)
		if want == nil {
			t.Fatalf("no root hash in veritysetup's output:\n%s", out)
		}
		wantTree, err := os.ReadFile(hashFile)
		if err != nil {
			t.Fatal(err)
		}
		ourTree, root := build(t, data, salt)
		if hex.EncodeToString(root[:]) != want[1] || !bytes.Equal(ourTree, wantTree) {
			t.Errorf("%d blocks: root %x and tree of %d bytes, veritysetup says %s and %d",
				n, root, len(ourTree), want[1], len(wantTree))
		}
		if n != 129 {
			continue
		}
		verify := tree.Command("veritysetup", "verify", "--no-superblock", "--data-blocks", "129",
			"--salt", hex.EncodeToString(salt), dataFile, hashFile, hex.EncodeToString(root[:]))
		if err := os.WriteFile(hashFile, ourTree, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := command.Run(t.Context(), verify); err != nil {
			t.Errorf("veritysetup does not accept our tree: %v", err)
		}
		ourTree[5000] ^= 1
		if err := os.WriteFile(hashFile, ourTree, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := command.Run(t.Context(), verify); err == nil || !strings.Contains(err.Error(), "Verification") {
			t.Errorf("veritysetup with a flipped bit in the tree: %v, want it to complain", err)
		}
	}
}
