package arch_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/imagespec"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var exitRow = regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \|`)

func TestExitCodesAreDocumented(t *testing.T) {
	documented := map[string]string{}
	for _, m := range exitRow.FindAllStringSubmatch(read(t, "docs/exit-codes.md"), -1) {
		documented[m[1]] = m[2]
	}
	codes := []cli.Code{
		cli.OK, cli.Failure, cli.Usage, cli.Nothing, cli.Refused, cli.Locked, cli.Unverified,
		cli.Unreachable, cli.Available, cli.Degraded, cli.NotStarted, cli.Interrupted,
	}
	for _, c := range codes {
		if got := documented[fmt.Sprint(int(c))]; got != c.String() {
			t.Errorf("docs/exit-codes.md has the name %q for %d, want %q", got, int(c), c)
		}
	}
	if len(documented) != len(codes) {
		t.Errorf("docs/exit-codes.md has %d codes, want %d", len(documented), len(codes))
	}
}

// Every key of an image description has a row in its documentation, and every default in
// a row is the default.
func TestImageDescriptionIsDocumented(t *testing.T) {
	doc := read(t, "docs/image-description.md")
	var check func(prefix string, typ reflect.Type)
	check = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			tag := f.Tag.Get("yaml")
			switch {
			case tag == "-" || tag == "":
			case f.Type.Kind() == reflect.Struct:
				check(prefix+tag+".", f.Type)
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				check("", f.Type.Elem())
				fallthrough
			default:
				if !strings.Contains(doc, "`"+prefix+tag+"`") {
					t.Errorf("docs/image-description.md does not have `%s%s`", prefix, tag)
				}
			}
		}
	}
	check("", reflect.TypeFor[imagespec.Spec]())
	// Those of containers are in another place, what both have in the first.
	apps := read(t, "docs/apps.md")
	for i := range reflect.TypeFor[imagespec.ContainerSpec]().NumField() {
		tag := reflect.TypeFor[imagespec.ContainerSpec]().Field(i).Tag.Get("yaml")
		if tag == "-" {
			continue
		}
		if !strings.Contains(apps, "| `"+tag+"` ") && !strings.Contains(apps, "| `"+tag+".") {
			t.Errorf("docs/apps.md has no row for `%s`", tag)
		}
	}

	d := imagespec.Default()
	for key, value := range map[string]any{
		"arch": d.Arch, "debian.suite": d.Debian.Suite, "disk.slot": d.Disk.Slot, "disk.esp": d.Disk.ESP,
		"disk.registry": d.Disk.Registry, "disk.slots": d.Disk.Slots, "squashfs.level": d.Squashfs.Level,
		"keys.sign": d.Keys.Sign, "update.activate": d.Update.Activate, "registry.policy": d.Registry.Policy,
		"server.interval":     strings.TrimSuffix(d.Server.Interval.String(), "0m0s"),
		"boot.watchdog":       fmt.Sprintf("%ds", d.Boot.Watchdog.Seconds()),
		"boot.health_timeout": fmt.Sprintf("%ds", d.Boot.HealthTimeout.Seconds()),
		"keys.accept":         "[" + strings.Join(d.Keys.Accept, ", ") + "]",
		"outputs":             "[" + strings.Join(d.Outputs, ", ") + "]",
	} {
		if row := fmt.Sprintf("| `%s` | `%v` |", key, value); !strings.Contains(doc, row) {
			t.Errorf("docs/image-description.md does not have %s", row)
		}
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// The examples of the documentation are descriptions that work.
func TestImageDescriptionExamples(t *testing.T) {
	blocks := yamlBlock.FindAllStringSubmatch(read(t, "docs/image-description.md")+read(t, "docs/apps.md"), -1)
	if len(blocks) != 6 {
		t.Fatalf("docs/image-description.md and docs/apps.md have %d examples, want 6", len(blocks))
	}
	for _, b := range blocks {
		text := b[1]
		if imagespec.KindOf([]byte(text)) == imagespec.KindContainer {
			if _, err := imagespec.ParseContainer("example", []byte(text)); err != nil {
				t.Error(err)
			}
			continue
		}
		if !strings.HasPrefix(text, "name:") {
			text = "name: a\nclass: b\nversion: 1\n" + text
		}
		for _, profile := range imagespec.Profiles([]byte(text)) {
			if _, err := imagespec.Parse("example", []byte(text), profile); err != nil {
				t.Errorf("profile %s: %v", profile, err)
			}
		}
	}
}

// The descriptions in images/ are read without a fault, in all their profiles.
func TestImages(t *testing.T) {
	entries, err := os.ReadDir("../../images")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		n++
		path := "../../images/" + e.Name()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if imagespec.KindOf(data) == imagespec.KindContainer {
			if _, err := imagespec.LoadContainer(path); err != nil {
				t.Error(err)
			}
			continue
		}
		for _, profile := range imagespec.Profiles(data) {
			if _, err := imagespec.Load(path, profile); err != nil {
				t.Errorf("profile %s: %v", profile, err)
			}
		}
	}
	if n == 0 {
		t.Error("no image descriptions in images/")
	}
}
