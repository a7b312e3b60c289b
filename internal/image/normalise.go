package image

import (
	"archive/tar"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// dropped are things that do not belong into an image: state of the machine
// that built it, caches, and what serves to change a root.
var dropped = []string{
	"/boot", // the kernel is in the unified kernel image
	"/etc/.pwd.lock",
	"/etc/.resolv.conf.systemd-resolved.bak",
	"/etc/apt",
	"/etc/cron.d", "/etc/cron.daily", "/etc/cron.hourly", "/etc/cron.monthly", "/etc/cron.weekly",
	"/etc/dpkg",
	"/etc/group-", "/etc/gshadow-", "/etc/passwd-", "/etc/shadow-", "/etc/subgid-", "/etc/subuid-",
	"/etc/hostname",
	"/etc/init.d", "/etc/rc0.d", "/etc/rc1.d", "/etc/rc2.d", "/etc/rc3.d", "/etc/rc4.d", "/etc/rc5.d", "/etc/rc6.d", "/etc/rcS.d",
	"/etc/initramfs-tools",
	"/etc/kernel",
	"/etc/logrotate.d",
	"/etc/machine-id",
	"/etc/resolv.conf",
	"/etc/runit", "/etc/sv",
	"/etc/udev/hwdb.bin", // in /usr/lib/udev, where hwdb.d is compiled to
	"/initrd.img", "/initrd.img.old", "/vmlinuz", "/vmlinuz.old",
	"/root/.ssh",
	"/usr/lib/udev/hwdb.d", // compiled
	"/usr/sbin/update-initramfs", "/usr/sbin/update-initramfs.package",
	"/usr/share/bash-completion",
	"/usr/share/bug", "/usr/share/info", "/usr/share/initramfs-tools",
	"/usr/share/lintian", "/usr/share/locale", "/usr/share/man",
	"/usr/share/zsh",
	"/var/backups", "/var/cache", "/var/lib/apt", "/var/lib/dbus/machine-id",
	"/var/lib/initramfs-tools", "/var/lib/pam", "/var/lib/shells.state",
	"/var/lib/systemd/deb-systemd-helper-enabled", "/var/lib/systemd/deb-systemd-helper-masked",
	"/var/lib/systemd/deb-systemd-user-helper-enabled",
	"/var/lib/systemd/random-seed",
	"/var/lib/ucf", "/var/log",
}

// emptied are folders that something is mounted on, or that are made anew at
// every start.
var emptied = []string{"/dev", "/proc", "/run", "/sys", "/tmp"}

// hostKey matches ssh host keys, the pattern for what must never be shared.
var hostKey = regexp.MustCompile(`^/etc/ssh/ssh_host_.*`)

// disabled are units that packages enable and that have nothing to do on a root
// that is read-only and not kept by apt.
var disabled = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
	"e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "logrotate.timer",
	"man-db.timer", "remote-fs.target", "xfs_scrub_all.timer",
}

// masked are units that would fail, wait, or only take time on such a root.
var masked = []string{
	"dev-hugepages.mount",
	"ldconfig.service",
	"proc-sys-fs-binfmt_misc.automount",
	"sshd-keygen.service",           // eos-ssh-hostkey.service
	"sys-fs-fuse-connections.mount", // this and the next load a module at every start
	"sys-kernel-config.mount",
	"sys-kernel-debug.mount",
	"sys-kernel-tracing.mount",
	"systemd-ask-password-console.path",
	"systemd-ask-password-wall.path",
	"systemd-binfmt.service",
	"systemd-boot-random-seed.service",
	"systemd-firstboot.service",
	"systemd-hibernate-clear.service",
	"systemd-hwdb-update.service",
	"systemd-journal-catalog-update.service",
	"systemd-journal-flush.service", // the journal is volatile
	"systemd-machine-id-commit.service",
	"systemd-pcrlock.socket",
	"systemd-pcrmachine.service",
	"systemd-pstore.service",
	"systemd-random-seed.service", // there is no place to keep a seed in
	"systemd-remount-fs.service",
	"systemd-sysext.socket",
	"systemd-sysusers.service", // accounts are made by the build
	"systemd-update-done.service",
}

// maskedGenerators are programs that systemd runs at every start to find units
// that cannot be there.
var maskedGenerators = []string{
	"systemd-bless-boot-generator", "systemd-gpt-auto-generator",
	"systemd-hibernate-resume-generator", "systemd-rc-local-generator",
	"systemd-ssh-generator", "systemd-system-update-generator", "systemd-sysv-generator",
}

// enabled are the units that every image starts, where it has them. Units
// listed as needed must be there.
var enabled = []struct {
	name   string
	needed bool
}{
	{"eos-ssh-hostkey.service", false},
	{"os-update-commit.service", true},
	{"os-update-confirm.service", true},
	{"systemd-boot-check-no-failures.service", true},
	{"systemd-networkd.service", false},
	{"systemd-resolved.service", false},
	{"systemd-timesyncd.service", false},
	{"var.mount", true},
}

// normalise turns the root that mmdebstrap made into one that depends on
// nothing but its packages.
func (t *tree) normalise() {
	for _, p := range dropped {
		t.remove(p)
	}
	for _, dir := range emptied {
		mode := int64(0o755)
		if n := t.get(dir); n != nil {
			mode = n.mode
		}
		t.remove(dir)
		t.mkdir(dir, mode)
	}
	for _, p := range t.names() {
		switch {
		case hostKey.MatchString(p),
			path.Base(p) == "__pycache__",
			strings.HasSuffix(p, ".pyc"):
			t.remove(p)
		case strings.HasPrefix(p, "/usr/share/doc/") && !keptDoc(p):
			delete(t.nodes, p)
		}
	}
	// Documentation folders that hold nothing any more.
	for _, p := range t.below("/usr/share/doc") {
		if n := t.get(p); n != nil && n.typ == tar.TypeDir && len(t.below(p)) == 0 {
			delete(t.nodes, p)
		}
	}
}

// keptDoc reports whether a file below /usr/share/doc stays: licences ask to be
// passed on with the programs.
func keptDoc(p string) bool {
	depth := strings.Count(p, "/")
	return depth == 4 || depth == 5 && path.Base(p) == "copyright"
}

// volatileVar moves what packages put below /var to where it is copied from at
// every start.
func (t *tree) volatileVar() {
	t.remove(dpkgDir)
	t.move("/var", "/usr/share/factory/var")
	t.mkdir("/var", 0o755)
}

// kernelVersion returns the release of the one kernel in the root.
func (t *tree) kernelVersion() (string, error) {
	var found []string
	for _, p := range t.names() {
		if v, ok := strings.CutPrefix(p, "/boot/vmlinuz-"); ok {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("find the kernel: no package of the image brings one (as linux-image-cloud-amd64 does)")
	}
	return "", fmt.Errorf("find the kernel: the packages bring %d of them: %s", len(found), strings.Join(found, ", "))
}
