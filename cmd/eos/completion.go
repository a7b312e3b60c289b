package main

import (
	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

func newCompletionCommand(env *cli.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a shell's completion script",
		Long: `Prints the script that completes eos's commands, flags and arguments in a shell. Put it where
the shell looks: for bash /etc/bash_completion.d/eos, for zsh _eos in a folder of $fpath, for
fish ~/.config/fish/completions/eos.fish.`,
		Example: `  eos completion bash > ~/.local/share/bash-completion/completions/eos
  source <(eos completion zsh)`,
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs:             []string{"bash", "zsh", "fish"},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "zsh":
				return cmd.Root().GenZshCompletion(env.Stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(env.Stdout, true)
			}
			return cmd.Root().GenBashCompletionV2(env.Stdout, true)
		},
	}
}
