package kmod

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLoad(t *testing.T) {
	x, err := Parse([]byte("k/a.ko: k/b.ko k/c.ko\nk/b.ko: k/c.ko\nk/c.ko:\nk/bad.ko: k/c.ko\n"), nil, []byte("k/in.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	l := &Loader{Index: x, Dir: "/m", Params: map[string]string{"b": "p=1"}}
	l.insert = func(file, params string) error {
		calls = append(calls, file+" "+params)
		switch file {
		case "/m/k/c.ko":
			return fmt.Errorf("in: %w", unix.EEXIST) // loaded by someone else
		case "/m/k/bad.ko":
			return unix.ENOEXEC
		}
		return nil
	}
	for _, name := range []string{"in", "a", "a", "b"} {
		if err := l.Load(name); err != nil {
			t.Errorf("Load(%q) = %v, want no error", name, err)
		}
	}
	want := "/m/k/c.ko |/m/k/b.ko p=1|/m/k/a.ko "
	if got := strings.Join(calls, "|"); got != want {
		t.Errorf("Load inserted %q, want %q", got, want)
	}
	if err := l.Load("bad"); !errors.Is(err, unix.ENOEXEC) || !strings.HasPrefix(err.Error(), "load module bad: ") {
		t.Errorf("Load(bad) = %v, want load module bad: ENOEXEC", err)
	}
	if missing := (*MissingError)(nil); !errors.As(l.Load("none"), &missing) {
		t.Errorf("Load(none) = %v, want a MissingError", l.Load("none"))
	}
}

func TestFinitNoFile(t *testing.T) {
	if err := finit(t.TempDir()+"/none.ko", ""); err == nil || !strings.Contains(err.Error(), "none.ko") {
		t.Errorf("finit(no such file) = %v, want an error that names it", err)
	}
}
