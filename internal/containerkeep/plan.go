// Package containerkeep keeps what containers stand on when the slot they stand on goes.
//
// podman's store is in two parts: images of the slot, read-only, and everything else on the
// registry. A container of an image in the slot, and an image that was pulled and shares
// layers with one, refers to layers by their ids. Another slot has other layers, and podman
// could neither start nor look into such a container. [Keep] is called before the system
// goes over to another slot: it copies the images that are needed to the registry. Names are
// not copied, so a name always means the image of the slot that runs. Images that flakes were
// put together in are not kept but removed: they are made again from what the new slot has.
//
// [MakePlan] is the decision, pure; the rest runs podman, so that the tables of the writable
// store are written by who owns them. podman image prune removes a copy again when nothing
// stands on it. docs/design/container-store.md has the background.
//
// Containers that are made after Keep from an image that nothing stood on are not seen.
// Stores of users other than root are not looked at. Keep may be repeated; cut at any time
// it leaves at most a folder in the store's tmp, or an image without a name.
package containerkeep

import (
	"cmp"
	"slices"
)

// Layer is a layer of a store.
type Layer struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
}

// Image is an image of a store.
type Image struct {
	ID    string   `json:"id"`
	Names []string `json:"names"`
	Layer string   `json:"layer"` // its uppermost
}

// Plan is what has to be done.
type Plan struct {
	Images []string // ids of images of the slot to copy, sorted
	Layers []string // ids of layers of the slot that something stands on, sorted
	Lost   []string // ids of layers that something stands on and that no store has, sorted
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Layers) == 0 }

// MakePlan decides what of the slot's store is to be kept for the writable one.
func MakePlan(writable, slot []Layer, images []Image) Plan {
	have, below := map[string]bool{}, map[string]string{}
	for _, l := range slot {
		below[l.ID] = l.Parent
	}
	for _, l := range writable {
		have[l.ID] = true
	}
	needed, lost := map[string]bool{}, map[string]bool{}
	for _, l := range writable {
		p := l.Parent
		if _, known := below[p]; p != "" && !known && !have[p] {
			lost[p] = true
		}
		for p != "" && !needed[p] {
			next, known := below[p]
			if !known {
				break
			}
			needed[p] = true
			p = next
		}
	}
	var plan Plan
	copied := map[string]bool{}
	for id := range needed {
		plan.Layers = append(plan.Layers, id)
		if !have[id] {
			if image := smallest(id, below, images); image != "" && !copied[image] {
				copied[image] = true
				plan.Images = append(plan.Images, image)
			}
		}
	}
	for id := range lost {
		plan.Lost = append(plan.Lost, id)
	}
	slices.Sort(plan.Images)
	slices.Sort(plan.Layers)
	slices.Sort(plan.Lost)
	return plan
}

// smallest returns the image with a layer that has the fewest of them.
func smallest(layer string, below map[string]string, images []Image) string {
	type candidate struct {
		id    string
		depth int
	}
	var found []candidate
	for _, i := range images {
		depth, has := 0, false
		// Tables are foreign: layers that stand on each other are not followed for ever.
		for l := i.Layer; l != "" && depth <= len(below); l = below[l] {
			depth++
			has = has || l == layer
		}
		if has {
			found = append(found, candidate{i.ID, depth})
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.MinFunc(found, func(a, b candidate) int {
		return cmp.Or(a.depth-b.depth, cmp.Compare(a.id, b.id))
	}).id
}
