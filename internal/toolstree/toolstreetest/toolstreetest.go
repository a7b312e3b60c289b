// Package toolstreetest gives tests the real programs of the tools tree, as
// oracles for code of our own that reads or writes the same formats.
package toolstreetest

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/toolstree"
)

// Missing skips a test for what this machine lacks. In CI, and with EOS_TEST_MUST_RUN, that is a failure.
func Missing(t testing.TB, what any) {
	t.Helper()
	if os.Getenv("EOS_TEST_MUST_RUN") != "" || os.Getenv("CI") == "true" {
		t.Fatalf("this test has to run here: %v", what)
	}
	t.Skip(what)
}

// NeedRoot is [Missing] for whoever is not root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// NeedProgram is [Missing] for a program of the host.
func NeedProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Missing(t, err)
	}
}

// Open returns the tools tree, made first where there is none. A machine that
// cannot make one lacks something.
func Open(t testing.TB) *toolstree.Tree {
	t.Helper()
	tree, err := toolstree.Open(t.Context(), t.Logf)
	if errors.Is(err, toolstree.ErrNoMaker) {
		Missing(t, err)
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
