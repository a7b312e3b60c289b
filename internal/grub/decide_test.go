package grub

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/bootstate"
	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
	"github.com/OSInside/eos/internal/vm/vmtest"
)

// A question is one boot state with one pair of kernel images.
type question struct {
	state   bootstate.State
	kernels [2]kernel // slot a's, slot b's
}

type kernel int

const (
	wrong kernel = iota // checksum does not fit
	fine
	late // loads, but does not start
)

// slotStates lists the states of one slot: of a committed one every combination, of
// the others, whose tries and good the rules never look at, every status with two.
func slotStates() []bootstate.SlotState {
	var all []bootstate.SlotState
	for tries := 0; tries <= bootstate.Tries; tries++ {
		for _, good := range []bool{false, true} {
			all = append(all, bootstate.SlotState{Status: bootstate.Committed, Tries: tries, Good: good})
		}
	}
	for _, status := range bootstate.Statuses {
		if status != bootstate.Committed {
			all = append(all, bootstate.SlotState{Status: status})
		}
	}
	return append(all, bootstate.SlotState{Status: bootstate.Trial, Tries: 2, Good: true})
}

var (
	slots = []bootstate.Slot{bootstate.A, bootstate.B}
	maybe = []bootstate.Slot{bootstate.None, bootstate.A, bootstate.B}
)

// A round is a product of states and kernels: every default, every one-shot slot,
// every pair of kernels, and every pair of slot states.
type round struct {
	kernels [][2]kernel
	slots   []bootstate.SlotState
}

// rounds: all states with kernels that are right or wrong, and, with kernels that
// load but do not start, the states that take different ways through the rules.
func rounds() []round {
	committed := func(tries int, good bool) bootstate.SlotState {
		return bootstate.SlotState{Status: bootstate.Committed, Tries: tries, Good: good}
	}
	return []round{
		{[][2]kernel{{fine, fine}, {wrong, fine}, {fine, wrong}, {wrong, wrong}}, slotStates()},
		{
			[][2]kernel{{late, fine}, {fine, late}, {late, wrong}, {wrong, late}, {late, late}},
			[]bootstate.SlotState{committed(0, false), committed(1, false), committed(3, true), {Status: bootstate.Trial}},
		},
	}
}

// each calls f with every question of every round, in the order script asks them.
func each(f func(question)) {
	for _, r := range rounds() {
		for _, def := range slots {
			for _, once := range maybe {
				for _, k := range r.kernels {
					for _, a := range r.slots {
						for _, b := range r.slots {
							f(question{bootstate.State{Default: def, Once: once, A: a, B: b}, k})
						}
					}
				}
			}
		}
	}
}

// fileQuestions are put to GRUB as environment blocks. Files are slow, and whether a
// value reaches the disk does not depend on why it was chosen: a share of the
// questions is enough to see every variable change to every value it can have.
func fileQuestions() map[string]question {
	all := map[string]question{}
	n := 0
	each(func(q question) {
		// 29 divides no product of the numbers of alternatives.
		if n++; n%29 == 0 {
			i := len(all)
			q.state.Booted = maybe[i%3]
			all[fmt.Sprintf("D%02d/F%02d", i/perFolder, i%perFolder)] = q
		}
	})
	return all
}

const perFolder = 32 // a FAT folder is searched from its beginning

// values are the values of the variables of s, with spaces between.
func values(s bootstate.State) string {
	var v []string
	for line := range strings.Lines(string(s.Marshal())) {
		if _, value, ok := strings.Cut(line, "="); ok {
			v = append(v, strings.TrimSpace(value))
		}
	}
	return strings.Join(v, " ")
}

// answer is what GRUB has to say to q.
func (q question) answer() (next bootstate.State, answer string) {
	next, boot, why := bootstate.Decide(q.state, func(x bootstate.Slot) bool {
		if x == bootstate.A {
			return q.kernels[0] == fine
		}
		return q.kernels[1] == fine
	})
	return next, fmt.Sprintf("%s/%s", boot, why)
}

const scriptHead = `
serial --unit=0 --speed=115200
terminal_output serial
eos_find_esp
function eos_usable {
  eval "set k=\$k_${1}"
  [ "$k" != 0 ]
}
# late: a kernel of the third kind was chosen and comes back from boot.
function late {
  set k=
  if [ -n "$slot" ]; then
    eval "set k=\$k_${slot}"
  fi
  [ "$k" = 2 ]
}
# ask FILE K_A K_B: as main.cfg does it.
function ask {
  set k_a=${2}
  set k_b=${3}
  if eos_load /${1}; then
    eos_decide
    eos_save /${1}
    while late; do
      eos_gone_wrong
      eos_decide
      eos_save /${1}
    done
    echo "FILE ${1} $slot/$why"
  else
    echo "FILE ${1} unreadable"
  fi
}
# pose: the same without files, for the state in the arguments.
function pose {
  set eos_seen_a=
  set eos_seen_b=
  set default=${1}
  set once=${2}
  set booted=-
  set a_status=${3}
  set a_tries=${4}
  set a_good=${5}
  set b_status=${6}
  set b_tries=${7}
  set b_good=${8}
  eos_decide
  while late; do
    eos_gone_wrong
    eos_decide
  done
  echo "POSE $slot/$why $default $once $booted $a_status $a_tries $a_good $b_status $b_tries $b_good"
}
`

// script asks GRUB all questions.
func script(files map[string]question) string {
	var b strings.Builder
	b.WriteString(decideConfig)
	b.WriteString(scriptHead)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		q := files[path]
		fmt.Fprintf(&b, "ask %s %d %d\n", path, q.kernels[0], q.kernels[1])
	}
	b.WriteString("ask D00/BROKEN 1 1\nask D00/VALUE 1 1\nask D00/MISSING 1 1\nask D00/NONE 1 1\n")
	for _, r := range rounds() {
		var l []string
		for _, ss := range r.slots {
			st := bootstate.Factory()
			st.A = ss
			l = append(l, `"`+strings.Join(strings.Fields(values(st))[3:6], " ")+`"`)
		}
		list := strings.Join(l, " ")
		for _, def := range slots {
			for _, once := range []string{"-", "a", "b"} {
				for _, k := range r.kernels {
					fmt.Fprintf(&b, "set k_a=%d\nset k_b=%d\nfor x in %s; do for y in %s; do pose %s %s $x $y; done; done\n",
						k[0], k[1], list, list, def, once)
				}
			}
		}
	}
	b.WriteString("echo END\nhalt\n")
	return b.String()
}

// TestDecideInRealGRUB asks a real GRUB, started by real firmware, what it does in
// every state with every pair of kernel images, and compares its choice and what it
// would save with package bootstate; and for a share of them every byte it saved.
func TestDecideInRealGRUB(t *testing.T) {
	vmtest.Need(t)
	tree := toolstreetest.Open(t)
	files := fileQuestions()
	dir := t.TempDir()
	for path, q := range files {
		write(t, filepath.Join(dir, path), q.state.Marshal())
	}
	good := string(bootstate.Factory().Marshal())
	broken := map[string]string{
		"D00/BROKEN":  strings.Repeat("\x00", bootstate.BlockSize),
		"D00/VALUE":   strings.Replace(good, "a_tries=3", "a_tries=7", 1),
		"D00/MISSING": strings.Replace(good, "b_good=0\n", "#########", 1),
	}
	for path, content := range broken {
		write(t, filepath.Join(dir, path), []byte(content))
	}
	program := filepath.Join(dir, Program)
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := standalone(t.Context(), tree, script(files), program); err != nil {
		t.Fatal(err)
	}
	img := makeESP(t, tree, dir, "64M")
	begin := time.Now()
	console := run(t, tree, img, vmtest.Slow(15*time.Minute), nil)
	var posed []string
	filed := map[string]string{}
	for _, line := range console {
		if rest, ok := strings.CutPrefix(line, "POSE "); ok {
			posed = append(posed, rest)
		} else if rest, ok := strings.CutPrefix(line, "FILE "); ok {
			path, answer, _ := strings.Cut(rest, " ")
			filed[path] = answer
		}
	}
	t.Logf("%d states as files and %d without answered in %v", len(filed), len(posed), time.Since(begin).Round(time.Second))
	if len(console) == 0 || console[len(console)-1] != "END" {
		t.Errorf("the console does not end with END but:\n%s", tail(console, 10))
	}

	bad := 0
	complain := func(format string, a ...any) {
		t.Helper()
		t.Errorf(format, a...)
		if bad++; bad > 5 {
			t.Fatal("and so on")
		}
	}
	n := 0
	each(func(q question) {
		next, answer := q.answer()
		want, got := answer+" "+values(next), "no answer"
		if n < len(posed) {
			got = posed[n]
		}
		if n++; got != want {
			complain("question %d, %+v, kernels %v: GRUB says %q, want %q", n, q.state, q.kernels, got, want)
		}
	})
	if len(posed) != n {
		t.Errorf("%d answers to %d questions", len(posed), n)
	}
	for path := range broken {
		if got := filed[path]; got != "unreadable" {
			complain("%s: GRUB says %q, want it unreadable", path, got)
		}
	}
	if got := filed["D00/NONE"]; got != "unreadable" {
		complain("missing file: GRUB says %q, want it unreadable", got)
	}
	saved := map[string]string{}
	for path, q := range files {
		sub := filepath.Dir(path)
		if saved[sub] == "" {
			saved[sub] = fromESP(t, tree, img, sub)
		}
		b, err := os.ReadFile(filepath.Join(saved[sub], filepath.Base(path)))
		if err != nil {
			t.Fatal(err)
		}
		next, want := q.answer()
		if got := filed[path]; got != want || !bytes.Equal(b, next.Marshal()) {
			complain("%s: %+v, kernels %v: GRUB says %q, want %q; saved\n%.200q, want\n%.200q", path, q.state, q.kernels, got, want, b, next.Marshal())
		}
	}
}
