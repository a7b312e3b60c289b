// Package grub makes the boot loader: one EFI program with GRUB, the few modules it
// needs and its configuration inside. The build puts it on the ESP and into the root;
// from there `os-update --firmware`, and nothing else, brings it to a device's ESP.
//
// [Standalone] builds it with grub-mkstandalone from the tools tree; [Config] is the
// configuration alone. The rules in it are those of package bootstate, whose
// function Decide is tested against this script in a real GRUB, state by state.
//
// At boot it reads EFI/eos/bootstate on the file system it was itself loaded from,
// saves the changed state in place, and chain-loads EFI/eos/a.efi or b.efi after
// checking it against a.sum or b.sum. It prints one line that says which slot and
// why. There is no menu and no way into GRUB's shell. See docs/design/boot-state.md.
//
// It does not check signatures of kernel images: that is Secure Boot's part, and the
// root is checked by eos-init.
package grub

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/OSInside/eos/internal/command"
)

// The script is two files so that tests can put another main part behind the same
// decision.
var (
	//go:embed decide.cfg
	decideConfig string
	//go:embed main.cfg
	mainConfig string
)

// Paths on the ESP that the boot loader and the rest of the system agree on.
const (
	Program = "EFI/BOOT/BOOTX64.EFI"
	Dir     = "EFI/eos"
)

// modules are built into the program; none can be loaded later.
var modules = []string{
	"boot",        // start what chainloader loaded
	"chain",       // chainloader: kernel images are EFI programs
	"echo",        // say which slot, and why
	"efi_gop",     // a console on the firmware's display
	"eval",        // variables of a slot given by name
	"fat",         // the ESP
	"gcry_sha256", // for hashsum
	"halt",        // tests end with it
	"hashsum",     // check kernel images
	"loadenv",     // load_env, save_env: the boot state
	"memdisk",     // where the configuration is
	"normal",      // the script language
	"part_gpt",    // the disk
	"reboot",      // when nothing can be started
	"regexp",      // find the ESP in $cmdpath
	"serial",      // tests read their results there
	"sleep",       // leave time to read a message
	"tar",         // format of the memdisk
	"terminal",    // choose the output
	"test",        // [ ]
	"true",
}

// Config returns the configuration of the boot loader.
func Config() string { return decideConfig + mainConfig }

// Tree runs a program of the tools tree; [*toolstree.Tree] is one.
type Tree interface {
	Command(argv ...string) command.Cmd
}

// Standalone writes the boot loader to the file out. The same tools tree gives the
// same bytes.
func Standalone(ctx context.Context, tools Tree, out string) error {
	return standalone(ctx, tools, Config(), out)
}

func standalone(ctx context.Context, tools Tree, config, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("make boot loader: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), ".grub-")
	if err != nil {
		return fmt.Errorf("make boot loader: %w", err)
	}
	defer os.RemoveAll(dir)
	cfg := filepath.Join(dir, "grub.cfg")
	if err := os.WriteFile(cfg, []byte(config), 0o644); err != nil {
		return fmt.Errorf("make boot loader: %w", err)
	}
	list := strings.Join(modules, " ")
	cmd := tools.Command("grub-mkstandalone",
		"--format=x86_64-efi",
		"--output="+out,
		"--modules="+list,
		"--install-modules="+list,
		"--locales=", "--fonts=", "--themes=",
		"--core-compress=none", "--compress=no",
		"boot/grub/grub.cfg="+cfg)
	// GRUB's own tar writer takes the time stamps of the program from here.
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=0")
	if err := command.Run(ctx, cmd); err != nil {
		return fmt.Errorf("make boot loader: %w", err)
	}
	return nil
}
