// Package restrictedtest has the requests that a restricted key must not get through, for the tests of
// what reads them and of the program.
package restrictedtest

import (
	"math/rand/v2"
	"strings"

	"github.com/OSInside/eos/internal/serve/restricted"
)

// Attacks returns requests that must be refused: what the original let through, and what people
// try on restricted commands.
func Attacks() []string {
	const dir = restricted.ImagesDir + "/"
	list := []string{
		"", " ", "\n", "\x00", "sh", "bash -i", "/bin/sh", "scp -f /etc/shadow", "sftp-server", "/usr/lib/openssh/sftp-server",
		"rsync --server --sender . /", "git-upload-pack '/'", "os-update-restricted --repo /", "os-update-restricted ", " os-update-restricted",
		"os-update-restricted\n", "os-update-restricted;id", "os-update-restrictedx", "/usr/bin/os-update-restricted", "sudo os-update-restricted",
		"Os-Update-Restricted", "sudo", "sudo ", "sudo -i", "sudo cat", "sudo cat ", "cat", "cat ", "test", "test -e", "test -e ",
		"sudo cat /etc/shadow", "sudo cat /etc/ssh/ssh_host_ed25519_key", "cat /root/.ssh/authorized_keys", "sudo cat /proc/self/environ",
		"sudo cat " + dir, "sudo cat " + restricted.ImagesDir, "sudo cat " + dir + ".", "sudo cat " + dir + "..", "sudo cat " + dir + "../../../../etc/shadow",
		"sudo cat " + dir + "../os-images/a.raw", "sudo cat " + dir + "./a.raw", "sudo cat " + dir + "/a.raw", "sudo cat " + dir + "x/a.raw",
		"sudo cat " + dir + "x/../a.raw", "sudo cat " + dir + "a.raw/", "sudo cat " + dir + "a.raw/..", "sudo cat " + dir + ".hidden.raw",
		"sudo cat " + dir + "-a.raw", "sudo cat " + dir + "a..raw", "sudo cat " + dir + ".raw", "sudo cat " + dir + "a.raw.", "sudo cat " + dir + "a.raw.key",
		"sudo cat " + dir + "a", "sudo cat " + dir + "a.RAW", "sudo cat " + dir + "a.raw.dev.bak", "sudo cat " + dir + "a.rawx",
		"sudo cat  " + dir + "a.raw", "sudo  cat " + dir + "a.raw", "sudo\tcat " + dir + "a.raw", "sudo cat\t" + dir + "a.raw",
		"sudo cat -- " + dir + "a.raw", "sudo cat -A " + dir + "a.raw", "sudo -n cat " + dir + "a.raw", "sudo sudo cat " + dir + "a.raw",
		"sudo cat " + dir + "a.raw ", " sudo cat " + dir + "a.raw", "sudo cat '" + dir + "a.raw'", `sudo cat "` + dir + `a.raw"`, `sudo cat ` + dir + `a\.raw`,
		"sudo cat " + dir + "a.raw\n", "sudo cat " + dir + "a.raw\nid", "sudo cat " + dir + "a.raw\r", "sudo cat " + dir + "a.raw\x00", "sudo cat " + dir + "a.raw\x00.dev",
		"sudo cat " + dir + "a.raw /etc/shadow", "sudo cat " + dir + "a.raw.dev /etc/shadow", "sudo cat /etc/shadow " + dir + "a.raw",
		"sudo cat " + dir + "*.raw", "sudo cat " + dir + "?.raw", "sudo cat " + dir + "[a].raw", "sudo cat " + dir + "{a,b}.raw", "sudo cat " + dir + "~.raw",
		"sudo cat " + dir + "$HOME.raw", "sudo cat " + dir + "${IFS}a.raw", "sudo cat " + dir + "$(id).raw", "sudo cat " + dir + "`id`.raw",
		"sudo cat " + dir + "a.raw;id", "sudo cat " + dir + "a.raw; id", "sudo cat " + dir + "a.raw|sh", "sudo cat " + dir + "a.raw||id", "sudo cat " + dir + "a.raw&&id",
		"sudo cat " + dir + "a.raw&", "sudo cat " + dir + "a.raw>x", "sudo cat " + dir + "a.raw <x", "sudo cat " + dir + "a.raw #", "sudo cat " + dir + "a%2fb.raw",
		"sudo cat " + dir + "ä.raw", "sudo cat " + dir + "a\u2215b.raw", "sudo cat " + dir + "a\xffb.raw", "sudo cat " + dir + "a b.raw", "sudo cat " + dir + "a:b.raw",
		"sudo cat " + dir + strings.Repeat("a", 200) + ".raw", "sudo cat " + strings.Repeat("a", 1<<20),
		"sudo cat " + strings.ToUpper(dir) + "a.raw", "sudo cat " + dir[1:] + "a.raw", "sudo cat //srv/www/fleet/os-images/a.raw",
		"sudo cat /srv/www/fleet/os-images-old/a.raw", "sudo cat /srv/www/fleet/a.raw", "sudo tac " + dir + "a.raw", "catx " + dir + "a.raw", "/bin/cat " + dir + "a.raw",
		"test -e " + dir, "test -e /etc/shadow", "test -f " + dir + "a.raw", "test ! -e " + dir + "a.raw", "test -e " + dir + "a.raw -o -e /etc/shadow",
		"testparm", "test-something", "testdisk /dev/sda", "test; id", "test -e x; id", "test`id`", "[ -e " + dir + "a.raw ]", "test -e " + dir + "a.raw && cat /etc/shadow",
		"env cat " + dir + "a.raw", "exec cat " + dir + "a.raw", "X=1 cat " + dir + "a.raw", "command cat " + dir + "a.raw", "LD_PRELOAD=x.so cat " + dir + "a.raw",
		"dd if=/dev/sda", "cat</etc/shadow", "sudo cat<" + dir + "a.raw", "sudo\x0bcat " + dir + "a.raw", "sudo\u00a0cat " + dir + "a.raw",
	}
	// One byte changed, added or left out somewhere in what is right.
	r := rand.New(rand.NewPCG(7, 7))
	for _, right := range []string{"sudo cat " + restricted.ImagesDir, "test -e " + restricted.ImagesDir, "os-update-restricted"} {
		for range 40 {
			i, b := r.IntN(len(right)), byte(r.IntN(256))
			if b == right[i] {
				continue
			}
			for _, wrong := range []string{right[:i] + string([]byte{b}) + right[i+1:], right[:i] + string([]byte{b}) + right[i:], right[:i] + right[i+1:]} {
				if strings.HasPrefix(right, "os-") {
					list = append(list, wrong)
				} else {
					list = append(list, wrong+"/a.raw")
				}
			}
		}
	}
	return list
}
