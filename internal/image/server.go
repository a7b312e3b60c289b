package image

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/imagespec"
	osfiles "github.com/OSInside/eos/os"
)

// serverPrograms are what an update server has in /usr/bin besides.
var serverPrograms = []string{"os-update-daemon", "os-update-restricted"}

// serverUnits are what it starts.
var serverUnits = []string{"os-update-serve.service", "os-fetch.timer"}

// diskDevice is the disk of an update server, as systemd calls it. Without it the start of the
// system waits this long for it, instead of systemd's 90 seconds. (Package embed takes no file
// with such a name.)
const (
	diskDevice  = `dev-disk-by\x2dlabel-eos\x2dfleet.device`
	diskTimeout = "[Unit]\nJobRunningTimeoutSec=20s\n"
)

const (
	serverAccounts = "usr/lib/sysusers.d/os-update.conf"
	serverFolders  = "usr/lib/tmpfiles.d/os-update.conf"
	serverSettings = "/etc/os-update-daemon.conf"
)

// layServer lays the files of an update server over those of every image.
func (t *tree) layServer(s *imagespec.Spec) error {
	if err := t.lay(osfiles.UpdateServer()); err != nil {
		return err
	}
	t.write(unitDir+"/"+diskDevice+".d/10-eos.conf", 0o644, []byte(diskTimeout))
	v := s.Server
	text := fmt.Sprintf("# Made by the build from the image description.\nOS_CHECK_INTERVAL=%ds\n", v.Interval.Seconds())
	var options []string
	for _, o := range []struct{ name, value string }{
		{"listen", v.Listen}, {"metrics", v.Metrics}, {"tls-cert", v.Certificate}, {"tls-key", v.Key}, {"client-ca", v.ClientCA},
	} {
		if o.value != "" {
			options = append(options, "--"+o.name+" "+o.value)
		}
	}
	if len(options) > 0 {
		text += "OS_SERVE_OPTIONS=" + strings.Join(options, " ") + "\n"
	}
	t.write(serverSettings, 0o644, []byte(text))
	return nil
}

// source is an image in the server's part of os-update.yml.
type source struct {
	Image   string `yaml:"image"`
	Name    string `yaml:"name"`
	Keyring string `yaml:"keyring,omitempty"`
}

func sources(images []imagespec.ServerImage) []source {
	var list []source
	for _, i := range images {
		list = append(list, source(i))
	}
	return list
}

// accountLine and folderLine are the forms of the lines that are used of systemd's.
var (
	accountLine = regexp.MustCompile(`^u (\S+) ([0-9]+) "([^":]*)" (\S+) (\S+)$`)
	folderLine  = regexp.MustCompile(`^d (\S+) ([0-7]{4}) (\S+) (\S+)$`)
)

// readLines yields what the lines of a file of an update server consist of.
func readLines(name string, form *regexp.Regexp, each func(fields []string) error) error {
	text, err := fs.ReadFile(osfiles.UpdateServer(), name)
	if err != nil {
		return fmt.Errorf("read files of the update server: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := form.FindStringSubmatch(line)
		if m == nil {
			return fmt.Errorf("internal error: line %q of %s does not have the form %s", line, name, form)
		}
		if err := each(m[1:]); err != nil {
			return err
		}
	}
	return nil
}

// addServer makes the accounts of an update server.
func (a *accounts) addServer(epoch time.Time) error {
	return readLines(serverAccounts, accountLine, func(f []string) error {
		if find(a.passwd, f[0]) != nil {
			return fmt.Errorf("add user %s: a package made that account", f[0])
		}
		return a.add(account{name: f[0], id: f[1], about: f[2], home: f[3], shell: f[4], hash: "*"}, epoch)
	})
}

// makeServerFolders makes the folders that the server's disk is mounted over. They are there for
// systemd-tmpfiles, which cannot make any in an image.
func (t *tree) makeServerFolders() error {
	a, err := t.readAccounts()
	if err != nil {
		return err
	}
	return readLines(serverFolders, folderLine, func(f []string) error {
		mode, err := strconv.ParseInt(f[1], 8, 64)
		if err != nil {
			return err
		}
		n := &node{typ: tar.TypeDir, mode: mode}
		if n.uid, err = id(a.passwd, "user", f[2]); err != nil {
			return err
		}
		if n.gid, err = id(a.group, "group", f[3]); err != nil {
			return err
		}
		t.put(f[0], n)
		return nil
	})
}

// checkServer says what the description names and the image lacks.
func (t *tree) checkServer(s *imagespec.Spec) error {
	for _, i := range s.Server.Images {
		if i.Keyring != "" && t.get(i.Keyring) == nil {
			return fmt.Errorf("check keyring of %s: the image has no file %s; add it under files", i.Name, i.Keyring)
		}
	}
	return nil
}
