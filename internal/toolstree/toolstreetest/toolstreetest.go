// Package toolstreetest gives tests the real programs of the tools tree, as
// oracles for code of our own that reads or writes the same formats.
package toolstreetest

import (
	"errors"
	"os"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
)

// Open returns the tools tree, made first where there is none. A machine that
// cannot make one skips the test, unless EOS_TEST_MUST_RUN is set or CI is true.
func Open(t testing.TB) *toolstree.Tree {
	t.Helper()
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if errors.Is(err, toolstree.ErrNoMaker) && os.Getenv("EOS_TEST_MUST_RUN") == "" && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// Output runs a program of the tree, which has to succeed, and returns what it
// wrote to standard output.
func Output(t testing.TB, tree *toolstree.Tree, argv ...string) string {
	t.Helper()
	out, err := command.Output(t.Context(), tree.Command(argv...))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
