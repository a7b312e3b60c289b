package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/toolstree/toolstreetest"
)

// TestSshd asks sshd what it makes of the configuration of an update server. What a device's key
// can do then, internal/serve/restricted tries.
func TestSshd(t *testing.T) {
	tree := toolstreetest.Open(t)
	dir := t.TempDir()
	n := 0
	for _, from := range []string{"../../os/root", "../../os/update-server"} {
		files, err := filepath.Glob(from + "/etc/ssh/sshd_config.d/*.conf")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			n++
			// Keys are elsewhere in a test.
			text := regexp.MustCompile(`(?m)^HostKey .*/`).ReplaceAllStringFunc(read(t, f), func(line string) string {
				return "HostKey " + dir + "/" + strings.Split(line, "/")[1] + "-"
			})
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n != 3 {
		t.Fatalf("%d files of sshd's configuration, want 3", n)
	}
	toolstreetest.Output(t, tree, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "run-ssh_host_ed25519_key"))
	passwd, config := filepath.Join(dir, "passwd"), filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(passwd, []byte("root:x:0:0::/root:/bin/sh\nsshd:x:1:1::/run/sshd:/bin/false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("Include "+dir+"/*.conf\nUsePAM yes\nAcceptEnv LANG\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(user string) string {
		return toolstreetest.Output(t, tree, "sh", "-c", `mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && mount --bind "$1" /etc/passwd &&
			exec /usr/sbin/sshd -T -f "$2" -C "user=$3,host=x,addr=192.0.2.1"`, "sh", passwd, config, user)
	}
	fleet, root := ask("fleet"), ask("root")
	for _, line := range []string{
		"forcecommand /usr/bin/os-update-restricted", "authorizedkeysfile /etc/ssh/authorized_keys.d/%u /srv/www/fleet/authorized_keys/%u",
		"authenticationmethods publickey", "disableforwarding yes", "permittty no", "permittunnel no", "permituserrc no", "permituserenvironment no",
		"passwordauthentication no", "kbdinteractiveauthentication no", "strictmodes yes",
		"hostkey " + dir + "/srv-ssh_host_ed25519_key\nhostkey " + dir + "/run-ssh_host_ed25519_key",
	} {
		if !strings.Contains("\n"+fleet, "\n"+line+"\n") {
			t.Errorf("sshd's configuration for fleet lacks %s", line)
		}
	}
	for _, line := range []string{"forcecommand none", "authorizedkeysfile /etc/ssh/authorized_keys.d/%u", "permittty yes", "acceptenv LANG"} {
		if !strings.Contains("\n"+root, "\n"+line+"\n") {
			t.Errorf("sshd's configuration for root lacks %s", line)
		}
	}
}
