package imagespec_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/OSInside/eos/internal/imagespec"
)

// head is a description that is complete; its last line is line 4.
const head = `name: eos
class: generic-x86_64
version: 1.0.0
packages: [systemd]
`

// server is where server: belongs; what follows it is line 8.
const server = "profiles:\n  update-server:\n    server:\n      "

// bad holds faulty descriptions: text after head (or a whole file, if it begins with "!"),
// and what has to be said, as "line: key: what". Lines are counted over the whole file.
var bad = []struct{ text, want, hint string }{
	// YAML
	{"!", "1: the file is empty", ""},
	{"!# only a comment\n", "1: the file is empty", ""},
	{"![a, b]\n", "1: is a list, want a mapping of keys", "name: NAME"},
	{"!hello\n", `1: is the text "hello", want a mapping`, ""},
	{"!name: [\n", "not YAML", ""},
	{"!a: b: c\n", "1: not YAML", ""},
	{"\tx: 1\n", "5: not YAML", ""},
	{"---\nname: two\n", "a second YAML document", "remove the '---'"},
	{"hostname: a\nhostname: b\n", "6: hostname: given twice, first in line 5", "keep one"},
	{"disk: {esp: 64MiB, esp: 65MiB}\n", "5: disk.esp: given twice", ""},
	{"hostname: &x eos\n", "5: hostname: anchors and aliases are not supported", "profiles"},
	{"debian: &d {suite: trixie}\nkernel: *d\n", "6: kernel: anchors and aliases", ""},
	{"kernel:\n  <<: {command_line: quiet}\n", "6: kernel: a key has to be a word", ""},
	{"hostname: !!binary ZW9z\n", "5: hostname: tag !!binary is not supported", ""},
	{"1: x\n", "5: a key has to be a word", ""},
	{"? [a]\n: b\n", "5: a key has to be a word", ""},
	// unknown keys
	{"pakages: []\n", "5: pakages: unknown key", "did you mean packages?"},
	{"zzz: 1\n", "5: zzz: unknown key", "known here: name, class"},
	{"disk: {slots: 2, eps: 64MiB}\n", "5: disk.eps: unknown key", "did you mean esp?"},
	{"files:\n  - path: /a\n    text: x\n", "7: files[0].text: unknown key", "known here: path, content"},
	{"units:\n  add:\n    - {name: a.service, contents: x}\n", "7: units.add[0].contents: unknown key", "did you mean content?"},
	{"profile: {}\n", "5: profile: unknown key", ""},
	// wrong types
	{"hostname: [eos]\n", "5: hostname: is a list, want text", ""},
	{"hostname: 12\n", "5: hostname: is the number 12, want text", `"12"`},
	{"hostname: true\n", "5: hostname: is the truth value true, want text", `"true"`},
	{"hostname:\n", "5: hostname: is empty, want text", ""},
	{"hostname: 2020-01-01\n", "5: hostname: is the date 2020-01-01, want text", ""},
	{"dev: yes\n", `5: dev: is the text "yes", want true or false`, "yes, no, on and off"},
	{"dev: 1\n", "5: dev: is the number 1, want true or false", ""},
	{"outputs: raw\n", `5: outputs: is the text "raw", want a list`, "[a, b]"},
	{"outputs: {raw: true}\n", "5: outputs: is a mapping of keys, want a list", ""},
	{"disk: 512MiB\n", `5: disk: is the text "512MiB", want a mapping`, ""},
	{"squashfs: {level: high}\n", `5: squashfs.level: is the text "high", want a whole number`, ""},
	{"squashfs: {level: 1.5}\n", "5: squashfs.level: is the number 1.5, want a whole number", ""},
	{"users: [root]\n", `5: users[0]: is the text "root", want a mapping`, ""},
	{"files: [{path: /a, mode: [1]}]\n", "5: files[0].mode: is a list, want a mode", ""},
	{"disk: {esp: [1]}\n", "5: disk.esp: is a list, want a size", ""},
	// identity
	{"!class: c\nversion: 1.0\npackages: [a1]\n", "1: name: is missing", "add a line name: eos"},
	{"!name: a\nversion: 1.0\npackages: [a1]\n", "1: class: is missing", "class: generic-x86_64"},
	{"!name: a\nclass: c\npackages: [a1]\n", "1: version: is missing", "version: 1.0.0"},
	{"!name: a\nclass: c\nversion: 1.0\n", "1: packages: is missing or empty", "at least systemd"},
	{"!name: Eos\nclass: c\nversion: 1.0\npackages: [a1]\n", `1: name: "Eos" does not fit`, "lower-case"},
	{"!name: a/b\nclass: c\nversion: 1.0\npackages: [a1]\n", `1: name: "a/b" does not fit`, ""},
	{"!name: a\nclass: .c\nversion: 1.0\npackages: [a1]\n", `2: class: ".c" does not fit`, ""},
	{"!name: a\nclass: c\nversion: 1:1.0\npackages: [a1]\n", `3: version: "1:1.0" has an epoch`, ""},
	{"!name: a\nclass: c\nversion: v1\npackages: [a1]\n", `3: version: "v1" is not a version`, "1.0.0"},
	{"!name: a\nclass: c\nversion: 1/2\npackages: [a1]\n", `3: version: "1/2" is not a version`, ""},
	{"!name: a\nclass: c\nversion: \"\"\npackages: [a1]\n", `3: version: "" is not a version`, ""},
	{"!name: a\nclass: c\nversion: \"1.0\\n\"\npackages: [a1]\n", `3: version: "1.0\n" is not a version`, ""},
	{"arch: x86_64\n", `5: arch: "x86_64" is not one of amd64, arm64`, ""},
	{"arch: amd46\n", "5: arch: ", "did you mean amd64?"},
	{"hostname: -eos\n", `5: hostname: "-eos" is not a host name`, ""},
	{"hostname: my_host\n", "5: hostname: ", ""},
	{"hostname: \"\"\n", `5: hostname: "" is not a host name`, ""},
	{"debian: {suite: ../x}\n", `5: debian.suite: "../x" does not fit`, ""},
	{"debian: {mirror: \"ftp://a/b\"}\n", `5: debian.mirror: "ftp://a/b" is not a mirror`, "leave it out"},
	{"debian: {mirror: \"http://a/b c\"}\n", "5: debian.mirror: ", ""},
	// packages
	{"remove: {packages: [a1, a1]}\n", `5: remove.packages[1]: "a1" is listed twice`, ""},
	{"!name: a\nclass: c\nversion: 1.0\npackages:\n  - vim=1.0\n", `5: packages[0]: "vim=1.0" does not fit`, "without a version"},
	{"!name: a\nclass: c\nversion: 1.0\npackages:\n  - vim\n  - ed\n  - vim\n", `7: packages[2]: "vim" is listed twice, first in line 5`, ""},
	{"!name: a\nclass: c\nversion: 1.0\npackages:\n  - --include\n", `5: packages[0]: "--include" does not fit`, ""},
	{"remove: {paths: [usr/share/doc]}\n", `5: remove.paths[0]: "usr/share/doc" is not absolute`, "begin it with /"},
	{"remove: {paths: [/usr/../etc]}\n", "has .. in it", ""},
	{"remove: {paths: [\"/**\"]}\n", "would remove everything", ""},
	{"remove: {paths: [\"/usr/[\"]}\n", "is not a pattern", ""},
	{"remove: {paths: [/usr/a**]}\n", "has ** that is not a path element", ""},
	// files
	{"files: [{content: x}]\n", "5: files[0].path: is missing", ""},
	{"files: [{path: etc/motd, content: x}]\n", `5: files[0].path: "etc/motd" is not absolute`, ""},
	{"files: [{path: /etc/../x, content: x}]\n", "5: files[0].path: ", "write the path out"},
	{"files: [{path: /etc//x, content: x}]\n", "is not in its shortest form", "/etc/x"},
	{"files: [{path: /, content: x}]\n", "is the root of the image", ""},
	{"files: [{path: /run/x, content: x}]\n", "/run is mounted over", ""},
	{"files: [{path: /etc/os-update.yml, content: x}]\n", "is made from update:", ""},
	{"files: [{path: /usr/lib/eos/firmware/EFI/BOOT/BOOTX64.EFI, content: x}]\n", "is made by the build", ""},
	{"files: [{path: \"/a\\nb\", content: x}]\n", "has a control character", ""},
	{"files: [{path: /a}]\n", "5: files[0]: has 0 of content, source and link", ""},
	{"files: [{path: /a, content: x, link: /b}]\n", "5: files[0]: has 2 of content, source and link", ""},
	{"files: [{path: /a, source: /etc/passwd}]\n", `5: files[0].source: "/etc/passwd" is not a file below`, ""},
	{"files: [{path: /a, source: ../x}]\n", "5: files[0].source: ", "without .."},
	{"files: [{path: /a, link: \"\"}]\n", "is not the target of a link", ""},
	{"files: [{path: /a, link: /b, mode: \"0755\"}]\n", "a symbolic link has no mode", ""},
	{"files: [{path: /a, content: x, mode: \"rwx\"}]\n", `"rwx" is not a file mode`, ""},
	{"files: [{path: /a, content: x, mode: \"0788\"}]\n", `"0788" is not a file mode`, ""},
	{"files: [{path: /a, content: x, owner: Root}]\n", `files[0].owner: "Root" does not fit`, ""},
	{"files: [{path: /a, content: x}, {path: /a, content: y}]\n", `files[1]: "/a" is listed twice`, ""},
	// units
	{"units: {enable: [sshd]}\n", `5: units.enable[0]: "sshd" does not fit`, "ssh.service"},
	{"units: {mask: [../a.service]}\n", "5: units.mask[0]: ", ""},
	{"units: {enable: [a.service], mask: [a.service]}\n", `5: units.mask[0]: "a.service" is enabled too`, ""},
	{"units: {add: [{content: x}]}\n", "5: units.add[0].name: is missing", ""},
	{"units: {add: [{name: a.service}]}\n", "5: units.add[0].content: is missing", ""},
	{"units: {add: [{name: a.service, content: x}, {name: a.service, content: y}]}\n", "units.add[1]: ", ""},
	// users
	{"users: [{shell: /bin/sh}]\n", "5: users[0].name: is missing", ""},
	{"users: [{name: Joe}]\n", `5: users[0].name: "Joe" does not fit`, ""},
	{"users: [{name: joe}, {name: joe}]\n", `users[1]: "joe" is listed twice`, ""},
	{"users: [{name: root, uid: 5}]\n", "root has the user id 0, not 5", ""},
	{"users: [{name: joe, uid: 0}]\n", "5: users[0].uid: 0 is root's", "leave uid out"},
	{"users: [{name: joe, uid: 70000}]\n", "70000 is not from 0 to 65533", ""},
	{"users: [{name: joe, uid: 1001}, {name: jim, uid: 1001}]\n", "users[1].uid: 1001 is joe's already", ""},
	{"users: [{name: root, password_hash: secret}]\n", "5: users[0].password_hash: is not a crypt(5) hash", "openssl passwd -6"},
	{"users: [{name: root, shell: bash}]\n", `"bash" is not absolute`, ""},
	{"users: [{name: root, ssh_keys: [\"ssh-rsa AAAA\"]}]\n", "5: users[0].ssh_keys[0]: is not an ssh public key", ""},
	// kernel, disk
	{"kernel: {command_line: \"quiet root=/dev/sda1\"}\n", "5: kernel.command_line: root is set by EOS itself", ""},
	{"kernel: {command_line: eos.watchdog=3}\n", "eos.watchdog is set by EOS", "boot.watchdog"},
	{"kernel: {command_line: \"a\\nb\"}\n", "has a line break", ""},
	{"kernel: {command_line: " + strings.Repeat("x", 1537) + "}\n", "is longer than 1536 bytes", ""},
	{"disk: {esp: 32MiB}\n", "5: disk.esp: 32MiB is not from 64MiB to 4GiB", ""},
	{"disk: {slot: 524289KiB}\n", "5: disk.slot: 524289KiB is not a multiple of 1MiB", ""},
	{"disk: {slot: 0MiB}\n", "5: disk.slot: ", ""},
	{"disk: {slot: 65GiB}\n", "is not from 16MiB to 64GiB", ""},
	{"disk: {slot: 512}\n", `5: disk.slot: "512" is not a size`, ""},
	{"disk: {slot: 512MB}\n", `5: disk.slot: "512MB" is not a size`, ""},
	{"disk: {slot: -1MiB}\n", `5: disk.slot: "-1MiB" is not a size`, ""},
	{"disk: {slot: 99999999999GiB}\n", "is too large", ""},
	{"disk: {registry: 1MiB}\n", "5: disk.registry: 1MiB is not from 32MiB", ""},
	{"disk: {registry: 2048GiB}\n", "5: disk: the partitions are ", "grows by itself"},
	{"disk: {slots: 3}\n", "5: disk.slots: 3 is not 1 or 2", ""},
	{"squashfs: {level: 23}\n", "23 is not from 1 to 22", ""},
	// keys, update, registry, boot, outputs
	{"keys: {sign: \"\"}\n", `5: keys.sign: "" is not a key name`, ""},
	{"keys: {accept: [a/b]}\n", `5: keys.accept[0]: "a/b" is not a key`, ""},
	{"keys: {accept: [other]}\n", "5: keys.accept: does not have the key that signs", "add image"},
	{"keys: {accept: []}\n", "5: keys.accept: does not have the key that signs", ""},
	{"update: {server: updates.example.com}\n", "5: update.server: ", "want a URL"},
	{"update: {server: \"ftp://a\"}\n", "is not the URL of a server", ""},
	{"update: {server: \"https://u:p@a/\"}\n", "has a user name or password", ""},
	{"update: {server: \"https://a/?x\"}\n", "has a query or fragment", ""},
	{"update: {name: A}\n", `5: update.name: "A" does not fit`, ""},
	{"update: {channel: \"a b\"}\n", `5: update.channel: "a b" does not fit`, "as testing"},
	{"update: {limit_rate: fast}\n", `5: update.limit_rate: "fast" does not fit`, "as 500KiB"},
	{"update: {ca: ca.pem}\n", `5: update.ca: "ca.pem" is not absolute`, ""},
	{"update: {certificate: /etc/cert.pem}\n", "5: update.certificate: and update.key are given one without the other", ""},
	{"update: {activate: kexek}\n", "5: update.activate: ", "did you mean kexec?"},
	{"server: {interval: 1h}\n", "5: server: is for the profile update-server alone", "below profiles: update-server:"},
	{"profiles: {AB: {server: {}}}\n", "5: server: is for the profile update-server alone", ""},
	{server + "mirror: ftp://h/x\n", `8: server.mirror: "ftp://h/x" is not an http or https URL (in profile update-server)`, ""},
	{server + "interval: 0\n", "8: server.interval: 0s is not from 1s", ""},
	{server + "interval: 1w\n", `8: server.interval: "1w" is not a duration`, ""},
	{server + "listen: 80\n", "8: server.listen: is the number 80, want text", ""},
	{server + "listen: \"x y:80\"\n", `8: server.listen: "x y:80" is not where to listen`, ""},
	{server + "metrics: \"$x:80\"\n", "8: server.metrics: ", "127.0.0.1:9091"},
	{server + "certificate: /c.pem\n", "8: server.certificate: and server.key are given one without the other", ""},
	{server + "client_ca: /c.pem\n", "8: server.client_ca: is given without server.certificate", ""},
	{server + "client_ca: c.pem\n", `8: server.client_ca: "c.pem" is not absolute`, ""},
	{server + "key: \"/a b\"\n", `8: server.key: "/a b" has other characters`, ""},
	{server + "images: [{image: https://h/x.raw}]\n", `8: server.images[0].name: "" is not the name of a copy`, ""},
	{server + "images: [{name: x.raw}]\n", `8: server.images[0].image: "" is not an http`, ""},
	{server + "images: [{image: https://h/x.raw, name: ../x.raw}]\n", `8: server.images[0].name: "../x.raw"`, ""},
	{server + "images: [{image: https://h/x.raw, name: x.raw, keyring: k.asc}]\n", `8: server.images[0].keyring: "k.asc" is not absolute`, ""},
	{server + "images: [{image: https://h/x.raw, name: x.raw}, {image: https://h/y.raw, name: x.raw}]\n", `8: server.images[1]: "x.raw" is listed twice`, ""},
	{server + "image: []\n", "8: server.image: unknown key", "did you mean images?"},
	{"files: [{path: /etc/os-update-daemon.conf, content: x}]\n", "is made from server:", ""},
	{"registry: {policy: tpm}\n", "5: registry.policy: ", "did you mean tpm2?"},
	{"registry: {policy: tpm2}\n", "5: registry.policy: tpm2 needs the packages cryptsetup-bin", "add them to packages"},
	{"registry: {policy: none}\n", "5: registry.policy: none needs the packages dmsetup, xfsprogs", "add them to packages"},
	{"registry: {journal: true}\n", "5: registry.journal: is kept in a registry", "registry.policy"},
	{"boot: {watchdog: 5s}\n", "5: boot.watchdog: 5s is not 0 and not from 10s to 1h", ""},
	{"boot: {watchdog: 3}\n", `5: boot.watchdog: "3" is not a duration`, ""},
	{"boot: {watchdog: -3s}\n", "is not a whole number of seconds", ""},
	{"boot: {watchdog: 1500ms}\n", "is not a whole number of seconds", ""},
	{"boot: {health_timeout: 0}\n", "5: boot.health_timeout: 0s is not from 10s", ""},
	{"outputs: [iso]\n", `5: outputs[0]: "iso" is not one of raw, zst, qcow2`, ""},
	{"outputs: [raw, raw]\n", `5: outputs[1]: "raw" is listed twice`, ""},
	// profiles
	{"profiles: [AB]\n", "5: profiles: is a list, want a mapping", ""},
	{"profiles: {AB: {dev: maybe}}\n", "5: dev: ", ""},
	{"profiles:\n  EC2:\n    disk: {esp: 1MiB}\n", "7: disk.esp: 1MiB is not from 64MiB to 4GiB (in profile EC2)", ""},
	{"profiles: {\"a b\": {}}\n", `profile name "a b"`, ""},
	{"profiles: {AB: {}, AB: {}}\n", "profiles.AB: given twice", ""},
	{"profiles: {AB: {profiles: {}}}\n", "5: profiles: unknown key", ""},
	{"profiles: {AB: {packages: {remove: [vim]}}}\n", `packages.remove: "vim" is not in the list`, ""},
	{"profiles: {AB: {packages: {append: [vim]}}}\n", "packages.append: unknown key", "known here: add, remove"},
	{"profiles: {AB: {packages: {add: vim}}}\n", `packages.add: is the text "vim", want a list`, ""},
	{"profiles: {AB: {packages: {add: [1]}}}\n", "packages[1]: is the number 1, want text", ""},
	{"profiles: {AB: {files: {remove: [/a]}}}\n", "files.remove: unknown key", ""},
	{"profiles:\n  AB:\n    packages:\n      add: [systemd]\n", `8: packages[1]: "systemd" is listed twice, first in line 4`, ""},
	{"packages: {add: [x]}\n", "packages: given twice", ""},
}

var form = regexp.MustCompile(`^d\.yaml:[1-9][0-9]*: [^\n]+$`)

func TestBadDescriptions(t *testing.T) {
	for i, tt := range bad {
		text, whole := strings.CutPrefix(tt.text, "!")
		if !whole {
			text = head + tt.text
		}
		t.Run(fmt.Sprintf("%d", i), func(t *testing.T) {
			s, err := imagespec.Parse("d.yaml", []byte(text), "")
			if err == nil {
				t.Fatalf("Parse(%q) = %+v, want an error with %q", tt.text, s, tt.want)
			}
			found := false
			for _, p := range imagespec.Problems(err) {
				if !form.MatchString(p.Error()) {
					t.Errorf("Parse(%q) = %q, want the form file:line: what", tt.text, p)
				}
				found = found || strings.Contains(strings.TrimPrefix(p.Error(), "d.yaml:"), tt.want) && strings.Contains(p.Hint(), tt.hint)
			}
			if !found {
				t.Errorf("Parse(%q) = %v, want %q with the hint %q", tt.text, err, tt.want, tt.hint)
			}
		})
	}
}

// One fault is told once, however many profiles inherit it.
func TestFaultsAreToldOnce(t *testing.T) {
	text := head + "dev: maybe\nhostnam: x\ndisk: {esp: 1MiB}\nprofiles: {EC2: {}, RPI: {}}\n"
	_, err := imagespec.Parse("d.yaml", []byte(text), "")
	var got []string
	for _, p := range imagespec.Problems(err) {
		got = append(got, p.Error())
	}
	want := []string{
		`d.yaml:5: dev: is the text "maybe", want true or false`,
		`d.yaml:6: hostnam: unknown key`,
		`d.yaml:7: disk.esp: 1MiB is not from 64MiB to 4GiB`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("Parse = %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPasswordIsNotRepeated(t *testing.T) {
	_, err := imagespec.Parse("d.yaml", []byte(head+"users: [{name: root, password_hash: hunter2}]\n"), "")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Parse = %v, want an error without the value", err)
	}
}
