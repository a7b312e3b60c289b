package imagespec

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/knqyf263/go-deb-version"
	"golang.org/x/crypto/ssh"
)

// Limits of a description. docs/image-description.md has them too.
const (
	minESP      = 64 * MiB
	maxESP      = 4 * GiB
	minSlot     = 16 * MiB
	maxSlot     = 64 * GiB
	minRegistry = 32 * MiB // a LUKS2 header takes 16 MiB
	maxDisk     = 2048 * GiB
	maxWatchdog = time.Hour
	maxCmdline  = 1536 // of the kernel's 2048, the rest is ours
	maxText     = 256 << 10
	maxUID      = 65533
)

var (
	imageName   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)
	className   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	versionText = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~-]{0,63}$`)
	suiteName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	hostLabel   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	userName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	unitName    = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|target|timer|path|mount|automount|swap|slice|device)$`)
	hashText    = regexp.MustCompile(`^\$[a-z0-9]+\$[!-9;-~]{8,400}$`)
	rateText    = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,6})?([kKmMgG](i?B)?)?$`)
	keyName     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
	keyPath     = regexp.MustCompile(`^[^\x00-\x1f]+/[^\x00-\x1f/]+\.pub$|^[^\x00-\x1f/]+\.pub$`)
)

// bad reports a problem with the value of key, unless the value could not be read at all:
// then it is only a default, and one fault would be told twice.
func (d *decoder) bad(key, fix, format string, a ...any) {
	for _, p := range d.problems[:d.decoded] {
		if within(p.Key, key) || within(key, p.Key) {
			return
		}
	}
	d.problem(d.line(key), key, fix, format, a...)
}

// check reports what is wrong with values of the right type.
func (d *decoder) check(s *Spec) {
	d.checkIdentity(s)
	d.checkPackages(s)
	d.checkFiles(s)
	d.checkUnits(s)
	d.checkUsers(s)
	d.checkKernel(s)
	d.checkDisk(s)
	d.checkKeys(s)
	d.checkUpdate(s)
	d.checkFleet(s)
	d.checkServer(s)
	d.checkRegistry(s)
	d.checkContainers(s)
	d.checkFlakes(s)
	if w := time.Duration(s.Boot.Watchdog); w != 0 && (w < 10*time.Second || w > maxWatchdog) {
		d.bad("boot.watchdog", "the time has to cover the kernel's start and eos-init; 0 turns the watchdog off", "%s is not 0 and not from 10s to 1h", w)
	}
	if h := time.Duration(s.Boot.HealthTimeout); h < 10*time.Second || h > maxWatchdog {
		d.bad("boot.health_timeout", "", "%s is not from 10s to 1h", h)
	}
	for i, o := range s.Outputs {
		d.oneOf(elem("outputs", i), o, OutputRaw, OutputZst, OutputQcow2)
	}
	d.unique("outputs", s.Outputs)
}

func (d *decoder) checkIdentity(s *Spec) {
	for _, key := range []string{"name", "class", "version"} {
		if !d.set(key) {
			d.problem(1, key, "add a line "+map[string]string{
				"name": "name: eos", "class": "class: generic-x86_64", "version": "version: 1.0.0",
			}[key], "is missing")
		}
	}
	d.match("name", s.Name, imageName, "want up to 64 lower-case letters, digits, '.' and '-', beginning with a letter or digit")
	d.match("class", s.Class, className, "want up to 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit")
	if d.set("version") {
		if what, fix := badVersion(s.Version); what != "" {
			d.bad("version", fix, "%s", what)
		}
	}
	d.checkDebian(s)
	labels := strings.Split(s.Hostname, ".")
	if d.set("hostname") && (len(s.Hostname) > 64 || !all(labels, hostLabel.MatchString)) {
		d.bad("hostname", "want letters, digits and '-' in lower case, 64 at most", "%q is not a host name", s.Hostname)
	}
	if s.Squashfs.Level < 1 || s.Squashfs.Level > 22 {
		d.bad("squashfs.level", "zstd has levels 1 (fast) to 22 (small)", "%d is not from 1 to 22", s.Squashfs.Level)
	}
}

// checkDebian checks where packages come from.
func (d *decoder) checkDebian(s *Spec) {
	d.oneOf("arch", s.Arch, "amd64", "arm64")
	d.match("debian.suite", s.Debian.Suite, suiteName, "want a name like trixie")
	if m := s.Debian.Mirror; m != "" {
		u, err := url.Parse(m)
		if err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme) || u.User != nil || strings.ContainsAny(m, " \t\r\n\"'") {
			d.bad("debian.mirror", "want an http, https or file URL without a password; leave it out to let mmdebstrap find one", "%q is not a mirror", m)
		}
	}
}

// badVersion says what is wrong with a version, if anything is.
func badVersion(v string) (what, fix string) {
	_, err := version.NewVersion(v)
	switch {
	case strings.Contains(v, ":"):
		return fmt.Sprintf("%q has an epoch", v), "versions are compared by Debian's rules, but have no epoch"
	case !versionText.MatchString(v) || err != nil:
		return fmt.Sprintf("%q is not a version", v), "want a digit, then letters, digits and . + - ~, like 1.0.0 or 2.1~rc1"
	}
	return "", ""
}

func (d *decoder) checkPackages(s *Spec) {
	if len(s.Packages) == 0 && !d.container {
		d.bad("packages", "an image needs at least systemd and a kernel", "is missing or empty")
	}
	for _, list := range []struct {
		key   string
		names []string
	}{{"packages", s.Packages}, {"remove.packages", s.Remove.Packages}} {
		for i, name := range list.names {
			d.match(elem(list.key, i), name, packageName, "want a Debian package name, without a version")
		}
		d.unique(list.key, list.names)
	}
	for i, p := range s.Remove.Paths {
		if what, fix := badPath(p, true); what != "" {
			d.bad(elem("remove.paths", i), fix, "%q %s", p, what)
		} else if strings.Trim(p, "/*") == "" {
			d.bad(elem("remove.paths", i), "", "%q would remove everything", p)
		}
	}
	d.unique("remove.paths", s.Remove.Paths)
}

func (d *decoder) checkUnits(s *Spec) {
	for _, list := range []struct {
		key   string
		names []string
	}{{"units.enable", s.Units.Enable}, {"units.mask", s.Units.Mask}} {
		for i, name := range list.names {
			d.unit(elem(list.key, i), name)
		}
		d.unique(list.key, list.names)
	}
	for i, name := range s.Units.Mask {
		if slices.Contains(s.Units.Enable, name) {
			d.bad(elem("units.mask", i), "keep it in one of the two lists", "%q is enabled too", name)
		}
	}
	var names []string
	for i, u := range s.Units.Add {
		key := elem("units.add", i)
		names = append(names, u.Name)
		d.unit(key+".name", u.Name)
		switch {
		case strings.TrimSpace(u.Content) == "":
			d.bad(key+".content", "give the text of the unit file", "is missing or empty")
		case len(u.Content) > maxText:
			d.bad(key+".content", "", "is longer than %d bytes", maxText)
		}
	}
	d.unique("units.add", names)
}

func (d *decoder) unit(key, name string) {
	d.match(key, name, unitName, "want a unit's full name, like ssh.service")
}

func (d *decoder) checkUsers(s *Spec) {
	var names []string
	uids := map[int]string{}
	for i, u := range s.Users {
		key := elem("users", i)
		names = append(names, u.Name)
		d.match(key+".name", u.Name, userName, "want a lower-case letter or '_', then letters, digits, '_' and '-', 32 at most")
		switch first, taken := uids[u.UID]; {
		case u.UID < 0 || u.UID > maxUID:
			d.bad(key+".uid", "", "%d is not from 0 to %d", u.UID, maxUID)
		case u.Name == "root" && u.UID != 0:
			d.bad(key+".uid", "", "root has the user id 0, not %d", u.UID)
		case u.Name != "root" && u.UID == 0:
			d.bad(key+".uid", "leave uid out to get a free one", "0 is root's")
		case taken && !slices.Contains(names[:i], u.Name):
			d.bad(key+".uid", "", "%d is %s's already", u.UID, first)
		}
		uids[u.UID] = u.Name
		if h := u.PasswordHash; h != "" && !hashText.MatchString(h) {
			// The value may be somebody's password: it is not repeated.
			d.bad(key+".password_hash", "make a hash with: openssl passwd -6", "is not a crypt(5) hash")
		}
		if what, fix := badPath(u.Shell, false); what != "" {
			d.bad(key+".shell", fix, "%q %s", u.Shell, what)
		}
		for j, line := range u.SSHKeys {
			at := elem(key+".ssh_keys", j)
			_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
			if err != nil || len(rest) > 0 || strings.ContainsAny(line, "\r\n") {
				d.bad(at, "want the one line of an id_*.pub file", "is not an ssh public key")
			}
		}
		d.unique(key+".ssh_keys", u.SSHKeys)
	}
	d.unique("users", names)
}

// ours are the words of the kernel command line that EOS writes itself.
var ours = map[string]string{
	"eos.slot": "", "eos.disk": "", "COMMIT_UPDATE": "", "eos.watchdog": "set boot.watchdog",
	"root": "", "rootfstype": "", "ro": "", "rw": "", "init": "", "rdinit": "", "initrd": "", "gpt": "",
}

func (d *decoder) checkKernel(s *Spec) {
	const key = "kernel.command_line"
	text := s.Kernel.CommandLine
	if len(text) > maxCmdline {
		d.bad(key, "", "is longer than %d bytes", maxCmdline)
		return
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		d.bad(key, "want one line of ASCII", "has a line break or a character that is not ASCII")
		return
	}
	for _, word := range strings.Fields(text) {
		name, _, _ := strings.Cut(word, "=")
		if fix, reserved := ours[name]; reserved {
			d.bad(key, fix, "%s is set by EOS itself", name)
		}
	}
}

func (d *decoder) checkDisk(s *Spec) {
	disk := s.Disk
	d.size("disk.esp", disk.ESP, minESP, maxESP)
	d.size("disk.slot", disk.Slot, minSlot, maxSlot)
	d.size("disk.registry", disk.Registry, minRegistry, maxDisk)
	if disk.Slots != 1 && disk.Slots != 2 {
		d.bad("disk.slots", "two slots can be updated, one (the profile Static) cannot", "%d is not 1 or 2", disk.Slots)
		return
	}
	if total := disk.ESP + disk.Slot*Size(disk.Slots) + disk.Registry; total > maxDisk && disk.Registry <= maxDisk && disk.Slot <= maxSlot && disk.ESP <= maxESP {
		d.bad("disk", "the registry grows by itself on first boot", "the partitions are %s together, more than %s", total, maxDisk)
	}
}

func (d *decoder) size(key string, v, least, most Size) {
	switch {
	case v < least || v > most:
		d.bad(key, "", "%s is not from %s to %s", v, least, most)
	case v%MiB != 0:
		d.bad(key, "partitions are aligned to 1MiB", "%s is not a multiple of 1MiB", v)
	}
}

func (d *decoder) checkKeys(s *Spec) {
	if s.Keys.Sign == "" || !keyName.MatchString(s.Keys.Sign) {
		d.bad("keys.sign", "want the name of a key that eos keys list shows", "%q is not a key name", s.Keys.Sign)
	}
	paths := false
	for i, a := range s.Keys.Accept {
		paths = paths || keyPath.MatchString(a)
		if !keyPath.MatchString(a) && !keyName.MatchString(a) {
			d.bad(elem("keys.accept", i), "want the name of a key or the path of a .pub file", "%q is not a key", a)
		}
	}
	d.unique("keys.accept", s.Keys.Accept)
	if len(s.Keys.Accept) > 8 {
		d.bad("keys.accept", "", "has %d keys, more than 8", len(s.Keys.Accept))
	}
	// Whether a .pub file is the signing key, only the builder can tell.
	if !paths && !slices.Contains(s.Keys.Accept, s.Keys.Sign) {
		d.bad("keys.accept", "add "+s.Keys.Sign, "does not have the key that signs: devices would refuse this very image")
	}
}

func (d *decoder) checkUpdate(s *Spec) {
	if text := s.Update.Server; text != "" {
		u, err := url.Parse(text)
		switch {
		case err != nil || !slices.Contains([]string{"http", "https", "ssh"}, u.Scheme) || u.Host == "" || strings.ContainsAny(text, " \t\r\n\"'"):
			d.bad("update.server", "want a URL like https://updates.example.com/eos", "%q is not the URL of a server", text)
		case u.User != nil && u.Scheme != "ssh":
			d.bad("update.server", "a repository is trusted for its signatures and needs no password", "has a user name or password in it")
		case u.RawQuery != "" || u.Fragment != "":
			d.bad("update.server", "", "%q has a query or fragment", text)
		}
	}
	if d.set("update.name") {
		d.match("update.name", s.Update.Name, imageName, "want the name of an image in the repository")
	}
	d.oneOf("update.activate", s.Update.Activate, ActivateKexec, ActivateReboot)
	for _, f := range []struct {
		key, value string
		re         *regexp.Regexp
		fix        string
	}{
		{"update.channel", s.Update.Channel, className, "want the name of a channel, as testing"},
		{"update.limit_rate", s.Update.Limit, rateText, "want bytes a second, as 500KiB or 1MiB"},
	} {
		if d.set(f.key) {
			d.match(f.key, f.value, f.re, f.fix)
		}
	}
	for _, f := range []struct{ key, value string }{
		{"update.pkey", s.Update.PKey}, {"update.ca", s.Update.CA},
		{"update.certificate", s.Update.Certificate}, {"update.key", s.Update.Key},
	} {
		if what, fix := badPath(f.value, false); f.value != "" && what != "" {
			d.bad(f.key, fix, "%q %s", f.value, what)
		}
	}
	if (s.Update.Certificate == "") != (s.Update.Key == "") {
		d.bad("update.certificate", "a certificate is of use with its private key", "and update.key are given one without the other")
	}
}

// match reports a value that is there and is not as it should be.
func (d *decoder) match(key, value string, re *regexp.Regexp, fix string) {
	if value == "" && !d.set(key) && strings.HasSuffix(key, ".name") {
		d.bad(key, fix, "is missing")
		return
	}
	if d.set(key) && !re.MatchString(value) {
		d.bad(key, fix, "%q does not fit", value)
	}
}

func (d *decoder) oneOf(key, value string, words ...string) {
	if slices.Contains(words, value) {
		return
	}
	fix := ""
	if near := closest(value, words); near != "" {
		fix = fmt.Sprintf("did you mean %s?", near)
	}
	d.bad(key, fix, "%q is not one of %s", value, strings.Join(words, ", "))
}

// unique reports elements of a list that are there twice.
func (d *decoder) unique(key string, list []string) {
	for i, v := range list {
		if first := slices.Index(list, v); first < i {
			d.bad(elem(key, i), "", "%q is listed twice, first in line %d", v, d.line(elem(key, first)))
		}
	}
}

// within reports whether key is outer or a part of it.
func within(key, outer string) bool {
	rest, ok := strings.CutPrefix(key, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func elem(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

func all(list []string, ok func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !ok(s) })
}
