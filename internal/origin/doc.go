// Package origin keeps copies of disk images that are published elsewhere, cut into the files
// that devices of the system that this one replaces stream: for an image NAME.raw
//
//	NAME.raw            the disk image
//	NAME.raw.firmware   its EFI partition
//	NAME.raw.dev        its root partition
//	NAME.raw.sha        SHA-256 of the disk image, as sha256sum prints it
//
// [ParseConfig] reads /etc/os-update.yml, which says what comes from where. [Site.Update] looks
// whether an origin has something new and brings it here; [Site.Status] says how all stands.
//
// Partitions are found in the image's GPT by their names; nothing is mounted, no loop device and
// no privilege is used. An origin is asked with what it said last time (ETag, Last-Modified). A
// download that broke off goes on where it broke, if the origin can do that. Checksums are checked
// where the origin publishes them, signatures where the configuration names a keyring.
//
// Files are written beside, synced, and renamed over the old ones: a reader in flight keeps what
// it has opened, a name once served is always served, and whatever goes wrong, be it garbage, a
// full disk or a kill, what was there before stays. One Update at a time works on an image, also
// across processes; others get [ErrLocked].
package origin
