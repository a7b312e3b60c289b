package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Progress shows what a long command is doing. All its methods may be called by several
// goroutines; none of them fails or blocks on anything but the write itself.
type Progress interface {
	// Stage begins a stage of total bytes (0: not known) and ends the one before.
	Stage(name string, total int64)
	// Add says that n more bytes of the current stage are done.
	Add(n int64)
	// Done ends the current stage. Without one it does nothing.
	Done()
	// Note prints a line in between.
	Note(format string, a ...any)
}

// NewProgress returns the Progress that fits env: JSON Lines on standard error when asked
// for (the --json of a writing command), a bar when standard error is a terminal, one line
// per stage else.
func NewProgress(env *Env, json bool) Progress {
	if json {
		return &progress{now: time.Now, show: &jsonLines{w: env.Stderr}}
	}
	if f, ok := env.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &progress{now: time.Now, show: &bar{w: f}}
	}
	return &progress{now: time.Now, show: &lines{w: env.Stderr}}
}

// NoProgress shows nothing, for library callers and tests.
func NoProgress() Progress { return &progress{now: time.Now, show: &lines{w: io.Discard}} }

// progress keeps the one model; a printer shows it.
type progress struct {
	mu    sync.Mutex
	now   func() time.Time
	show  printer
	stage stage
	open  bool
}

type stage struct {
	name        string
	total, done int64
	start, last time.Time
}

// printer shows a stage; calls are serialised.
type printer interface {
	begin(s *stage)
	update(s *stage, now time.Time)
	end(s *stage, took time.Duration)
	note(text string)
}

func (p *progress) Stage(name string, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	now := p.now()
	p.stage = stage{name: name, total: max(total, 0), start: now, last: now}
	p.open = true
	p.show.begin(&p.stage)
}

func (p *progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open {
		return
	}
	p.stage.done += n
	p.show.update(&p.stage, p.now())
}

func (p *progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
}

func (p *progress) finish() {
	if p.open {
		p.open = false
		p.show.end(&p.stage, p.now().Sub(p.stage.start))
	}
}

func (p *progress) Note(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show.note(fmt.Sprintf(format, a...))
}

// lines is for logs: a line when a stage begins, so that a hang has a name, and one when a
// stage that took a while has ended.
type lines struct{ w io.Writer }

func (l *lines) begin(s *stage)           { fmt.Fprintf(l.w, "%s\n", s.name) }
func (l *lines) update(*stage, time.Time) {}
func (l *lines) note(text string)         { fmt.Fprintf(l.w, "%s\n", text) }
func (l *lines) end(s *stage, t time.Duration) {
	switch {
	case s.done > 0:
		fmt.Fprintf(l.w, "%s: %s in %s\n", s.name, humanize.IBytes(uint64(s.done)), seconds(t))
	case t >= time.Second:
		fmt.Fprintf(l.w, "%s: %s\n", s.name, seconds(t))
	}
}

// jsonLines writes an object a line; bytes done at most twice a second.
type jsonLines struct{ w io.Writer }

type progressEvent struct {
	Event string `json:"event"` // stage, progress, done, note
	Stage string `json:"stage,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`
	Ms    int64  `json:"ms,omitempty"`
	Text  string `json:"text,omitempty"`
}

func (j *jsonLines) print(e progressEvent) {
	// Progress that cannot be written must not end the work it reports.
	_ = json.NewEncoder(j.w).Encode(e)
}

func (j *jsonLines) begin(s *stage) {
	j.print(progressEvent{Event: "stage", Stage: s.name, Total: s.total})
}

func (j *jsonLines) update(s *stage, now time.Time) {
	if now.Sub(s.last) < 500*time.Millisecond {
		return
	}
	s.last = now
	j.print(progressEvent{Event: "progress", Stage: s.name, Done: s.done, Total: s.total})
}

func (j *jsonLines) end(s *stage, t time.Duration) {
	j.print(progressEvent{Event: "done", Stage: s.name, Done: s.done, Total: s.total, Ms: t.Milliseconds()})
}

func (j *jsonLines) note(text string) { j.print(progressEvent{Event: "note", Text: text}) }

// bar is for terminals: a bar, or a spinner where the total is not known, that becomes a
// line when the stage is done.
type bar struct {
	w io.Writer
	b *progressbar.ProgressBar
}

func (b *bar) begin(s *stage) {
	total := s.total
	if total == 0 {
		total = -1
	}
	b.b = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(b.w),
		progressbar.OptionSetDescription(s.name),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetRenderBlankState(true),
	)
}

func (b *bar) update(s *stage, _ time.Time) { _ = b.b.Set64(clamp(s)) }

func (b *bar) end(s *stage, t time.Duration) {
	_ = b.b.Clear()
	_ = b.b.Exit()
	b.b = nil
	if s.done > 0 {
		fmt.Fprintf(b.w, "\r%s: %s in %s\n", s.name, humanize.IBytes(uint64(s.done)), seconds(t))
		return
	}
	fmt.Fprintf(b.w, "\r%s: %s\n", s.name, seconds(t))
}

func (b *bar) note(text string) {
	if b.b != nil {
		_ = b.b.Clear()
	}
	fmt.Fprintf(b.w, "\r%s\n", text)
	if b.b != nil {
		_ = b.b.RenderBlank()
	}
}

// clamp keeps a stage whose estimate was too small at its end; the bar refuses more.
func clamp(s *stage) int64 {
	if s.total > 0 {
		return min(s.done, s.total)
	}
	return s.done
}

func seconds(t time.Duration) string { return fmt.Sprintf("%.1f s", t.Seconds()) }
