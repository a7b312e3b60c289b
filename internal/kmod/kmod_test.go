package kmod_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/OSInside/eos/internal/kmod"
	"github.com/google/go-cmp/cmp"
)

const dep = `# a comment
kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz kernel/lib/reed_solomon.ko.xz
kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz
kernel/drivers/md/dm-mod.ko.xz:
kernel/lib/reed_solomon.ko.xz:
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/c.ko
kernel/c.ko: kernel/a.ko
kernel/self.ko: kernel/self.ko
kernel/orphan.ko: kernel/lost.ko
`

const builtin = `kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko
`

const aliases = `# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias pci:v00008086d000025ABsv*sd*bc*sc*i* i6300esb
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v00008086d00002922sv*sd*bc*sc*i* ahci
alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb-storage
alias cpu:type:x86,ven*fam*mod*:feature:*0099* sha256_ssse3
alias dmi*:svnA[cd]me/Inc:* acme
`

func parse(t *testing.T) *kmod.Index {
	t.Helper()
	x, err := kmod.Parse([]byte(dep), []byte(aliases), []byte(builtin))
	if err != nil {
		t.Fatalf("Parse() = %v, want no error", err)
	}
	return x
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"kernel/drivers/md/dm-mod.ko.xz": "dm_mod",
		"dm-mod":                         "dm_mod",
		"iTCO_wdt.ko":                    "iTCO_wdt",
		"a.ko.zst":                       "a",
		"a.ko.gz":                        "a",
		"snd.kong":                       "snd.kong",
	} {
		if got := kmod.Name(in); got != want {
			t.Errorf("Name(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestOrder(t *testing.T) {
	x := parse(t)
	for _, tt := range []struct {
		name    string
		want    string
		wantErr string
	}{
		{"dm-mod", "dm_mod", ""},
		{"dm_mod", "dm_mod", ""},
		{"dm-verity", "reed_solomon dm_mod dm_bufio dm_verity", ""},
		{"virtio_pci", "", ""},           // built in: nothing to load
		{"virtio_blk", "virtio_blk", ""}, // its dependency is built in
		{"a", "", "module a: dependency circle a -> b -> c -> a"},
		{"c", "", "module c: dependency circle c -> a -> b -> c"},
		{"self", "", "module self: dependency circle self -> self"},
		{"orphan", "", "module orphan: dependency: module lost: neither a module file nor built into the kernel"},
		{"nvme", "", "module nvme: neither a module file nor built into the kernel"},
	} {
		got, err := x.Order(tt.name)
		if errText(err) != tt.wantErr || strings.Join(got, " ") != tt.want {
			t.Errorf("Order(%q) = %q, %q, want %q, %q", tt.name, got, errText(err), tt.want, tt.wantErr)
		}
	}
	_, err := x.Order("orphan")
	if missing := (*kmod.MissingError)(nil); !errors.As(err, &missing) || missing.Name != "lost" {
		t.Errorf("Order(orphan) = %v, want a MissingError for lost", err)
	}
}

func TestMatch(t *testing.T) {
	x := parse(t)
	for _, tt := range []struct{ modalias, want string }{
		{"virtio:d00000002v00001AF4", "virtio_blk"},
		{"virtio:d00000001v00001AF4", ""},
		{"pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00", "i6300esb"},
		{"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci"}, // two patterns, once
		{"usb:v1234p5678d0100dc00dsc00dp00ic08isc06ip50in00", "usb_storage"},
		{"cpu:type:x86,ven0002fam0006mod0001:feature:,0000,0099,00C0", "sha256_ssse3"},
		{"dmi:bvnX:svnAcme/Inc:pn", "acme"},
		{"dmi:bvnX/1:svnAdme/Inc:pn/x", "acme"}, // * runs over a slash
		{"dmi:bvnX:svnAxme/Inc:pn", ""},
		{"", ""},
	} {
		if got := strings.Join(x.Match(tt.modalias), " "); got != tt.want {
			t.Errorf("Match(%q) = %q, want %q", tt.modalias, got, tt.want)
		}
	}
	want := []string{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv*sd*bc*sc*i*"}
	if diff := cmp.Diff(want, x.Aliases("ahci")); diff != "" {
		t.Errorf("Aliases(ahci) (-want +got):\n%s", diff)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ dep, alias, want string }{
		{"kernel/a.ko kernel/b.ko\n", "", `modules.dep:1: want FILE: [FILE...], got "kernel/a.ko kernel/b.ko"`},
		{": x\n", "", `modules.dep:1: want FILE: [FILE...], got ": x"`},
		{"x/a-b.ko:\ny/a_b.ko:\n", "", "modules.dep:2: module a_b is both x/a-b.ko and y/a_b.ko"},
		{"", "alias one\n", `modules.alias:1: want alias PATTERN MODULE, got "alias one"`},
		{"", "\nalias a[ b\n", `modules.alias:2: pattern "a[": syntax error in pattern`},
	} {
		if _, err := kmod.Parse([]byte(tt.dep), []byte(tt.alias), nil); errText(err) != tt.want {
			t.Errorf("Parse(%q, %q) = %q, want %q", tt.dep, tt.alias, errText(err), tt.want)
		}
	}
}

func TestOpen(t *testing.T) {
	if _, err := kmod.Open(fstest.MapFS{}); err == nil {
		t.Error("Open(empty tree) = nil, want an error: modules.dep is needed")
	}
	x, err := kmod.Open(fstest.MapFS{
		"modules.dep":     {Data: []byte(dep)},
		"modules.builtin": {Data: []byte(builtin)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !x.Has("dm-verity") || !x.Has("virtio-pci") || x.Has("nvme") || x.Builtin("dm-verity") || !x.Builtin("virtio_pci") {
		t.Error("Has/Builtin: dm-verity must be a file, virtio_pci built in, nvme neither")
	}
	if got, want := x.Path("dm_verity"), "kernel/drivers/md/dm-verity.ko.xz"; got != want {
		t.Errorf("Path(dm_verity) = %q, want %q", got, want)
	}
	if got := x.Path("virtio_pci"); got != "" {
		t.Errorf("Path(virtio_pci) = %q, want none", got)
	}
}

func TestParams(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  map[string]string
	}{
		{[]string{"i6300esb.nowayout=1"}, map[string]string{"i6300esb": "nowayout=1"}},
		{[]string{"usb-storage.delay_use=0", "usb_storage.quirks=a:b:c"}, map[string]string{"usb_storage": "delay_use=0 quirks=a:b:c"}},
		{[]string{"m.flag", "root=/dev/v.da", "quiet", ".x=1", "m.=2"}, map[string]string{"m": "flag"}},
		{[]string{"m.p=two words"}, map[string]string{"m": `p="two words"`}},
		{[]string{"eos.slot=a", "systemd.unit=x", "m.p=1"}, map[string]string{"m": "p=1"}},
	} {
		if diff := cmp.Diff(tt.want, kmod.Params(tt.words, "eos", "systemd")); diff != "" {
			t.Errorf("Params(%q) (-want +got):\n%s", tt.words, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(dep), []byte(aliases), "dm-verity")
	f.Add([]byte("a.ko: a.ko"), []byte("alias * a"), "a")
	f.Fuzz(func(t *testing.T, dep, alias []byte, name string) {
		x, err := kmod.Parse(dep, alias, nil)
		if err != nil {
			return
		}
		x.Match(name)
		order, err := x.Order(name)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, m := range order {
			if seen[m] {
				t.Fatalf("Order(%q) = %q, names %s twice", name, order, m)
			}
			seen[m] = true
		}
		if len(order) == 0 || order[len(order)-1] != kmod.Name(name) {
			t.Fatalf("Order(%q) = %q, want the module itself last", name, order)
		}
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
