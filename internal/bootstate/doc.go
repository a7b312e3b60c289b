// Package bootstate holds the boot state: which of the two slots GRUB starts next,
// and how often it may still try. It owns the format of the file EFI/eos/bootstate
// (a GRUB environment block, docs/design/boot-state.md) and the rules by which the
// boot loader reads and changes it.
//
// [Parse] and [State.Marshal] convert between the 1024 bytes and a [State];
// [ReadFile] and [WriteFile] do it on the mounted ESP. [Boot] is the pure
// function that GRUB's script (internal/grub) mirrors; the two are tested against
// each other, state by state, in a real GRUB.
//
// What may be written when is not decided here but in internal/slot.
//
// Crash promise: all variables lie in the first 512 bytes and the file is
// overwritten in place, so a change is one sector: after a cut the file holds the
// old state or the new one. On a medium that can lose the sector it was writing, the
// copy ([Files]), which is written after it, still holds the old state. Concurrent
// writers must be kept apart by the caller.
//
// The format is frozen: the GRUB on a device is replaced by hand only, so it may be
// older or newer than either slot, and a slot that is rolled back to must still
// understand what a newer one wrote.
package bootstate
