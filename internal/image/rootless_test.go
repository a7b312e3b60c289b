package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plainUser is somebody with no rights at all, whom every Debian has.
const plainUser = "nobody"

// TestBuildWithoutRoot lets a plain user run `eos build`, from an empty cache, and compares
// what comes out with a build by root that has fetched and unpacked its packages by itself:
// two machines of two people make the same bytes.
func TestBuildWithoutRoot(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a whole image twice, from packages")
	}
	if os.Geteuid() != 0 {
		t.Skip("whoever runs the tests is a plain user: TestBuild shows it")
	}
	// Everything the plain user needs lies where it can get to; t.TempDir does not.
	dir, err := os.MkdirTemp("", "eos-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys, bin, home := signingKeys(t), filepath.Join(dir, "bin"), filepath.Join(dir, "home")
	build := exec.Command("go", "build", "-trimpath", "-o", bin+"/", "../../cmd/eos", "../../cmd/eos-init", "../../cmd/os-update")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, build)
	run(t, exec.Command("cp", "../../images/minimal.yaml", dir))
	if err := os.WriteFile(filepath.Join(dir, "subid"), fmt.Appendf(nil, "%s:100000:65536\n", plainUser), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("sh", "-ec", `
		mkdir -p "$1/home" && cp -r "$2" "$1/home/keys"
		chmod 755 "$1" && chown -R `+plainUser+` "$1/home"`, "sh", dir, keys))

	// The ranges of user ids that adduser would have entered, in a mount namespace of their own.
	user := exec.Command("unshare", "--mount", "sh", "-ec", `
		mount --bind "$1/subid" /etc/subuid
		mount --bind "$1/subid" /etc/subgid
		cd "$1/home"
		exec setpriv --reuid `+plainUser+` --regid nogroup --clear-groups env -i \
			PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$1/home" EOS_KEYS="$1/home/keys" \
			"$1/bin/eos" build -f "$1/minimal.yaml" -o "$1/home/out"`, "sh", dir)
	run(t, user)

	theirs := filepath.Join(home, "out")
	ours := buildMinimal(t, Options{KeysDir: keys, BinDir: bin, OutDir: t.TempDir(), CacheDir: t.TempDir()})
	for _, kind := range []string{"slot", "raw", "sbom"} {
		path := ours.Path(kind)
		a, errA := hashFile(path)
		b, errB := hashFile(filepath.Join(theirs, filepath.Base(path)))
		if errA != nil || errB != nil || a != b {
			t.Errorf("root and a plain user make different %s files: %s %v, %s %v", kind, a, errA, b, errB)
		}
	}
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args[:1], " "), err, out)
	}
}

// A file that was made in the second the bootstrap was begun in is no package's: tar keeps
// whole seconds only.
func TestSourceEpoch(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 700_000_000, time.UTC)
	packaged := began.Add(-time.Hour).Truncate(time.Second)
	tr := newTree()
	for path, at := range map[string]time.Time{
		"/usr/bin/tool":       packaged,
		"/usr/lib/old":        packaged.Add(-time.Hour),
		"/usr/lib/made":       began.Truncate(time.Second),
		"/usr/lib/made-later": began.Add(3 * time.Second).Truncate(time.Second),
		"/etc/mirrors":        began.Add(-time.Minute).Truncate(time.Second),
	} {
		tr.write(path, 0o644, nil)
		tr.get(path).mtime = at
	}
	if got := (&rootArchive{Started: began}).sourceEpoch(tr); !got.Equal(packaged) {
		t.Errorf("sourceEpoch = %v, want %v", got, packaged)
	}
}
