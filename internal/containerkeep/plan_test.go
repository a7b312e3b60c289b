package containerkeep_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/OSInside/eos/internal/containerkeep"
)

type layer = containerkeep.Layer

func TestMakePlan(t *testing.T) {
	slot := []layer{{"base", ""}, {"libs", "base"}, {"tools", "libs"}, {"other", ""}}
	images := []containerkeep.Image{{ID: "I-tools", Layer: "tools"}, {ID: "I-base", Layer: "base"}, {ID: "I-libs", Layer: "libs"}, {ID: "I-other", Layer: "other"}}
	for name, tt := range map[string]struct {
		writable []layer
		want     containerkeep.Plan
	}{
		"nothing there":        {nil, containerkeep.Plan{}},
		"nothing of the slot":  {[]layer{{"own", ""}, {"c", "own"}}, containerkeep.Plan{}},
		"a container":          {[]layer{{"c", "base"}}, containerkeep.Plan{Images: []string{"I-base"}, Layers: []string{"base"}}},
		"two on one":           {[]layer{{"c", "base"}, {"d", "base"}}, containerkeep.Plan{Images: []string{"I-base"}, Layers: []string{"base"}}},
		"a container on three": {[]layer{{"c", "tools"}}, containerkeep.Plan{Images: []string{"I-base", "I-libs", "I-tools"}, Layers: []string{"base", "libs", "tools"}}},
		"kept already":         {[]layer{{"base", ""}, {"c", "base"}}, containerkeep.Plan{Layers: []string{"base"}}},
		"kept in part":         {[]layer{{"base", ""}, {"c", "libs"}}, containerkeep.Plan{Images: []string{"I-libs"}, Layers: []string{"base", "libs"}}},
		"lost before":          {[]layer{{"c", "gone"}}, containerkeep.Plan{Lost: []string{"gone"}}},
	} {
		if diff := cmp.Diff(tt.want, containerkeep.MakePlan(tt.writable, slot, images), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: plan (-want +got):\n%s", name, diff)
		}
	}
}

// After a plan is carried out nothing stands on the slot any more, and the next plan copies
// nothing. Tables may be any nonsense.
func TestPlanIsEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e"})
		table := func(name string) []layer {
			return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) layer { return layer{ids.Draw(t, "id"), ids.Draw(t, "parent")} }), 0, 5).Draw(t, name)
		}
		writable, slot := table("writable"), table("slot")
		var images []containerkeep.Image
		for _, l := range slot {
			images = append(images, containerkeep.Image{ID: "I" + l.ID, Layer: l.ID})
		}
		plan := containerkeep.MakePlan(writable, slot, images)
		writable = append(writable, slot...)
		if again := containerkeep.MakePlan(writable, slot, images); len(again.Images) > 0 {
			t.Fatalf("the plan %+v leaves %+v", plan, again)
		}
	})
}
