// Package registry is the device's one place to write: it makes the registry at the first boot,
// opens it at every other, grows it, lets another disk take its place, and says what is wrong
// with it. docs/registry.md is for operators, docs/design/registry.md has formats and reasons.
//
// The calls most readers need are [System.Start], what a boot does, and [System.Status]. What
// lies on a partition is decided by [Classify], what a boot does about it by [Decide]; both are
// pure. Ciphers, key slots, seals and file systems are made by cryptsetup, systemd-cryptenroll,
// systemd-cryptsetup and xfsprogs.
//
// Promises. A partition is formatted only if its first sector is the builder's mark ([Mark]) for
// the disk the system booted from, or if an operator names it (--setup). A registry is made
// beside its place: all of it is written, and proved by opening it as later boots will, before
// its first sector replaces the mark, so a power cut at any instant leaves either the mark, and
// the next boot begins anew, or a whole registry. Data that cannot be opened is left as it is:
// the system runs on without it, degraded, and [Status] says why. Nothing but the replay of its
// journal repairs a file system unasked; where that ends at a block that a power cut has torn, the
// block is written as the journal proves it was to become.
//
// Keys are in memory and in pipes between programs, never in an argument, a log, or on a disk in
// clear; the policy keyfile is the exception that an image description has to ask for.
//
// Calls that change something take a lock; several processes may call at once.
package registry
