package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Entry is a file or a folder.
type Entry struct {
	Path string // of short names, as EFI/BOOT/BOOTX64.EFI
	Size int64
	Dir  bool

	start  uint32 // first cluster; 0: none
	sector int64  // where the entry is on the device
	slot   int    // and which of the sector's it is
	long   bool   // entries with a long name are before it
}

// Damage is a chain of clusters that leads where it must not: to one that is
// free, or to one of another entry. Writing to such a file, or removing it, can
// destroy another.
type Damage struct {
	Path string
	With string // the other entry; empty if there is none
	Why  string
}

func (d Damage) String() string {
	if d.With != "" {
		return fmt.Sprintf("%s and %s share clusters", d.Path, d.With)
	}
	return d.Path + " " + d.Why
}

// Of says whether the damage is also that of path.
func (d Damage) Of(path string) bool {
	return strings.EqualFold(d.Path, path) || strings.EqualFold(d.With, path)
}

// Damage returns what is damaged.
func (v *Volume) Damage() []Damage { return v.damage }

// Find returns the file or folder of that name, and whether there is one.
// Upper and lower case are the same.
func (v *Volume) Find(path string) (Entry, bool) {
	for _, e := range v.entries {
		if strings.EqualFold(e.Path, path) {
			return e, true
		}
	}
	return Entry{}, false
}

const (
	slotSize = 32
	perSlots = SectorSize / slotSize

	attrLabel  = 0x08
	attrFolder = 0x10
	attrLong   = 0x0f

	maxEntries = 1 << 14
	maxDepth   = 8
)

// survey walks through all folders and gives every cluster its owner.
func (v *Volume) survey() error {
	v.entries, v.damage = nil, nil
	owner := make([]int32, v.limit) // index into entries, plus one
	top := Entry{Path: "the root folder", Dir: true, start: v.root}
	v.entries = append(v.entries, top)
	if err := v.folder(v.claim(owner, 0), "", 0); err != nil {
		return err
	}
	// Folders add to the list while it is walked.
	for i := 1; i < len(v.entries); i++ {
		e := v.entries[i]
		chain := v.claim(owner, i)
		if !e.Dir {
			continue
		}
		if err := v.folder(chain, e.Path+"/", strings.Count(e.Path, "/")+1); err != nil {
			return err
		}
	}
	return nil
}

// claim walks along an entry's chain and returns the clusters that are its own.
func (v *Volume) claim(owner []int32, i int) []uint32 {
	e := v.entries[i]
	var chain []uint32
	if e.start == 0 && !e.Dir {
		return nil
	}
	for c := e.start; ; {
		if err := v.allocated(c); err != nil {
			v.damage = append(v.damage, Damage{Path: e.Path, Why: err.Error()})
			return chain
		}
		switch o := int(owner[c]) - 1; {
		case o == i:
			v.damage = append(v.damage, Damage{Path: e.Path, Why: "is a circle of clusters"})
			return chain
		case o >= 0:
			v.damage = append(v.damage, Damage{Path: e.Path, With: v.entries[o].Path})
			return chain
		}
		owner[c] = int32(i) + 1
		chain = append(chain, c)
		next, err := v.next(c)
		if errors.Is(err, errEnd) {
			return chain
		}
		c = next
	}
}

// folder reads a folder's entries.
func (v *Volume) folder(chain []uint32, prefix string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: folders are more than %d deep", prefix, maxDepth)
	}
	sector := make([]byte, SectorSize)
	long := false
	for _, c := range chain {
		for at := v.at(c); at < v.at(c)+v.cluster; at += SectorSize {
			if err := readFull(v.dev, sector, at); err != nil {
				return err
			}
			for slot := range perSlots {
				s := sector[slot*slotSize:][:slotSize]
				switch {
				case s[0] == 0:
					return nil // nothing follows
				case s[0] == 0xe5, s[0] == '.':
					long = false
					continue
				case s[11]&0x3f == attrLong:
					long = true
					continue
				case s[11]&attrLabel != 0:
					continue
				}
				if len(v.entries) == maxEntries {
					return fmt.Errorf("it has more than %d files", maxEntries)
				}
				v.entries = append(v.entries, Entry{
					Path: prefix + name(s), Size: int64(binary.LittleEndian.Uint32(s[28:])), Dir: s[11]&attrFolder != 0,
					start: start(s), sector: at, slot: slot, long: long,
				})
				long = false
			}
		}
	}
	return nil
}

// start returns the first cluster of a folder's slot.
func start(s []byte) uint32 {
	le := binary.LittleEndian
	return uint32(le.Uint16(s[20:]))<<16 | uint32(le.Uint16(s[26:]))
}
