package registration

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/flake"
)

// model is what is registered: the name of a flake, its folder and its container.
type model map[string][2]string

func (m model) String() string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&out, "%s in %s: %s\n", name, m[name][0], m[name][1])
	}
	return out.String()
}

// TestAnyHistory registers and removes in any order, with runs that are killed or fail
// anywhere. What is registered is always what the history says, and once the next run has
// cleared up, there are commands and units for that and for nothing else.
func TestAnyHistory(t *testing.T) {
	names, folders := []string{"a", "a.b", "b"}, []string{"x", "y/z"}
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp("", "history")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		m := model{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			name, folder := rapid.SampledFrom(names).Draw(t, "name"), rapid.SampledFrom(folders).Draw(t, "folder")
			image, force := rapid.SampledFrom([]string{"i1", "i2"}).Draw(t, "image"), rapid.Bool().Draw(t, "force")
			remove := rapid.Bool().Draw(t, "remove")
			app := root + "/" + folder + "/" + name
			after := maps.Clone(m)
			after[name] = [2]string{folder, image}
			do := change{do: func(s *Store, _ string) error {
				o := Options{App: app, Image: image, RunAs: "root"}
				if image == "i2" {
					o.Unit = name + ".service2"
				}
				return s.Add(o, force)
			}}
			if remove {
				delete(after, name)
				do.do = func(s *Store, _ string) error { _, err := s.Remove(name, "", "", force); return err }
			}
			k := &knife{left: rapid.IntRange(0, 20).Draw(t, "cut"), mode: rapid.SampledFrom([]string{"killed", "torn", "fails"}).Draw(t, "mode")}
			err, killed := cutRun(t, root, do, k)
			_, had := m[name]
			got := look(t, root)
			switch {
			case err == nil && !killed:
				if had == remove || force && !remove {
					m = after // and anything else is to be refused
				}
			case errors.Is(err, ErrInTheWay) && (force || remove || !had), errors.Is(err, ErrNotRegistered) && (had || !remove):
				t.Fatalf("refused: %v, with\n%s", err, m)
			case got.String() == after.String():
				m = after
			}
			if got.String() != m.String() {
				t.Fatalf("registered:\n%s, want\n%s, after %v", got, m, err)
			}
			s, err := open(t.Context(), root+"/flakes", Hooks{}, disk{})
			if err != nil || len(s.Left) > 0 {
				t.Fatalf("clear up: %v, %v", err, s.Left)
			}
			s.Close()
			for _, n := range names {
				_, err := os.Stat(root + "/flakes/units/" + n + ".service2.service")
				if want := m[n][1] == "i2"; (err == nil) != want {
					t.Fatalf("%s has a unit: %v, want %v", n, err == nil, want)
				}
				for _, f := range folders {
					if want := m[n][0] == f; isLink(root+"/"+f+"/"+n) != want {
						t.Fatalf("%s in %s has a command: %v, want %v", n, f, !want, want)
					}
				}
			}
		}
	})
}

// cutRun is a run that may be cut, also while it clears up.
func cutRun(t *rapid.T, root string, c change, k *knife) (err error, killed bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != errKilled {
				panic(r)
			}
			killed = true
		}
	}()
	s, err := open(t.Context(), root+"/flakes", Hooks{}, k)
	if err != nil {
		return err, false
	}
	defer s.Close()
	return c.do(s, root), false
}

// look is what anybody sees.
func look(t *rapid.T, root string) model {
	all, err := flake.List(root+"/flakes", "")
	if err != nil {
		t.Fatal(err)
	}
	m := model{}
	for _, e := range all {
		if e.Err != nil || !isLink(e.Host) {
			t.Fatalf("%s: %v, command %s: %v", e.Name, e.Err, e.Host, isLink(e.Host))
		}
		m[e.Name] = [2]string{strings.Trim(strings.TrimSuffix(strings.TrimPrefix(e.Host, root), e.Name), "/"), e.Image}
	}
	return m
}
