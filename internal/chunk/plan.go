package chunk

import (
	"cmp"
	"slices"
)

// An Action says where a chunk of the target comes from.
type Action uint8

// The actions, cheapest first.
const (
	Keep  Action = iota // the target already holds it in its place
	Copy                // the target holds it at an earlier place
	Reuse               // a seed holds it
	Fetch               // it has to be fetched
)

func (a Action) String() string {
	return [...]string{"keep", "copy", "reuse", "fetch"}[a]
}

// A Step says what to do for one chunk of the target; step i is for chunk i.
type Step struct {
	Action Action
	Seed   int   // Reuse: which seed
	From   int64 // Copy, Reuse: offset there
}

// A Range is a stretch of the image that is fetched in one request. Chunks
// First to Last lie in it; those between that are not needed are passed over.
type Range struct {
	Offset, Size int64
	First, Last  int
}

// A Plan says how a target is assembled. It is data and can be shown before
// anything is done. Sizes are in bytes.
type Plan struct {
	Steps  []Step
	Ranges []Range

	KeepBytes, CopyBytes, ReuseBytes, FetchBytes int64
	// ExtraBytes are fetched only because they lie between needed chunks of
	// one range.
	ExtraBytes int64
	// FullImage says that there is one range, over everything.
	FullImage bool
}

// RequestCost is what a range costs beside its bytes: the headers of request and answer. Ours
// take 513 bytes, which a test of package serve measures; a CDN adds some of its own.
const RequestCost = 1 << 10

// Cost is how many bytes go over the wire for the plan.
func (p *Plan) Cost() int64 {
	return p.FetchBytes + p.ExtraBytes + int64(len(p.Ranges))*RequestCost
}

// OrFullImage returns p if it costs less than the whole image in one request, else the plan that
// fetches the whole image. Either leaves alone what is right on the target already. A plan that
// continues an interrupted one has less to fetch and costs less, so it is kept as it is.
func (p *Plan) OrFullImage(target *Index) *Plan {
	if len(p.Ranges) == 0 || p.Cost() < target.Size()+RequestCost {
		return p
	}
	full := p.fetchFrom(target, 0)
	full.FullImage = true
	return full
}

// fetchFrom is p with one range over everything from chunk first on.
func (p *Plan) fetchFrom(target *Index, first int) *Plan {
	offset := target.Chunks[first].Offset
	r := Range{Offset: offset, Size: target.Size() - offset, First: first, Last: len(target.Chunks) - 1}
	rest := &Plan{Steps: slices.Clone(p.Steps), Ranges: []Range{r}, FetchBytes: r.Size}
	for i := range rest.Steps[first:] {
		rest.Steps[first+i] = Step{Action: Fetch}
	}
	return rest
}

// Merging says how missing chunks that are near each other become one range.
type Merging struct {
	// Gap is the largest stretch of bytes not needed that is fetched to save
	// a request. Zero means none: only direct neighbours are merged.
	Gap int64
	// MaxRanges bounds the number of ranges, whatever the gaps; the smallest
	// gaps are filled first. Zero means no bound.
	MaxRanges int
}

// MakePlan decides for every chunk of target where it comes from. kept[i]
// says that the target holds chunk i in its place; nil means it holds none.
func MakePlan(target *Index, kept []bool, seeds []Seed, m Merging) *Plan {
	p := &Plan{Steps: make([]Step, len(target.Chunks))}
	done := make(map[ID]int64) // where below the current offset a chunk can be read back
	for i, e := range target.Chunks {
		s := &p.Steps[i]
		from, again := done[e.ID]
		switch {
		case kept != nil && kept[i]:
			s.Action = Keep
			p.KeepBytes += e.Size
		case again:
			s.Action, s.From = Copy, from
			p.CopyBytes += e.Size
		case s.reuse(e, seeds):
			p.ReuseBytes += e.Size
		default:
			s.Action = Fetch
			p.FetchBytes += e.Size
		}
		if !again {
			done[e.ID] = e.Offset
		}
	}
	p.Ranges = ranges(target, p.Steps, m)
	for _, r := range p.Ranges {
		p.ExtraBytes += r.Size
	}
	p.ExtraBytes -= p.FetchBytes
	return p
}

// reuse makes s take e from the first seed that has it.
func (s *Step) reuse(e Entry, seeds []Seed) bool {
	for i, seed := range seeds {
		at, ok := seed.Offsets[e.ID]
		if !ok || at.Size != e.Size {
			continue
		}
		// The target is written in ascending order: what lies before the
		// current offset is gone.
		if seed.Target && at.Offset < e.Offset {
			continue
		}
		s.Action, s.Seed, s.From = Reuse, i, at.Offset
		return true
	}
	return false
}

// ranges merges the chunks to fetch.
func ranges(target *Index, steps []Step, m Merging) []Range {
	var rs []Range
	for i, s := range steps {
		if s.Action != Fetch {
			continue
		}
		e := target.Chunks[i]
		if n := len(rs); n > 0 && e.Offset-(rs[n-1].Offset+rs[n-1].Size) <= m.Gap {
			rs[n-1].Size = e.End() - rs[n-1].Offset
			rs[n-1].Last = i
			continue
		}
		rs = append(rs, Range{Offset: e.Offset, Size: e.Size, First: i, Last: i})
	}
	if m.MaxRanges <= 0 || len(rs) <= m.MaxRanges {
		return rs
	}
	// Fill the smallest gaps, the earlier one first among equals.
	order := make([]int, len(rs)-1) // gap k lies between ranges k and k+1
	for k := range order {
		order[k] = k
	}
	gap := func(k int) int64 { return rs[k+1].Offset - rs[k].Offset - rs[k].Size }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(gap(a), gap(b)) })
	fill := make([]bool, len(rs))
	for _, k := range order[:len(rs)-m.MaxRanges] {
		fill[k+1] = true
	}
	out := rs[:1]
	for k := 1; k < len(rs); k++ {
		r := rs[k]
		if last := &out[len(out)-1]; fill[k] {
			last.Size = r.Offset + r.Size - last.Offset
			last.Last = r.Last
			continue
		}
		out = append(out, r)
	}
	return out
}
