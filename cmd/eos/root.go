package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

// exitAnnotation is the key of a command's annotation that lists the exit codes it has
// besides 0, 1 and 2, like "4,6".
const exitAnnotation = "exit"

// run is main with everything it gets from the world as arguments.
func run(ctx context.Context, env *cli.Env) error {
	root := newRootCommand(env)
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	started := watchStart(root, env)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil || *started {
		return err
	}
	// Whatever goes wrong before a command runs is wrong in its command line.
	var coded *cli.Error
	if errors.As(err, &coded) && coded.Code != cli.Usage {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "\n") // cobra adds suggestions on further lines
	return cli.Refuse(cli.Usage, errors.New(text), "see "+cmd.CommandPath()+" --help")
}

// newRootCommand returns the whole command tree.
func newRootCommand(env *cli.Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "eos",
		Short: "Build, run and publish EOS images",
		Long: `eos builds signed A/B operating system images from image descriptions, runs them in a
virtual machine, publishes them to update repositories and looks into what came out.

The programs it needs are kept in a tools tree, a Debian root that is made once and cached;
the host only has to have mmdebstrap.`,
		Example: `  eos keys new
  eos build -f images/eos.yaml -o out`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          needCommand,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.PersistentFlags().String("keys", "", "`folder` of the signing keys (default $EOS_KEYS or ~/.config/eos/keys)")
	root.PersistentFlags().String("cache", "", "`folder` for the tools tree and build stages (default $EOS_CACHE or ~/.cache/eos)")
	_ = root.MarkPersistentFlagDirname("keys")
	_ = root.MarkPersistentFlagDirname("cache")

	// A group is a heading in the help.
	group := func(id, title string, commands ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("make", "Make images:", newKeysCommand(env), newBuildCommand(env), newAppCommand(env), newInspectCommand(env))
	group("vm", "Run them in a virtual machine:",
		newRunCommand(env), newSSHCommand(env), newConsoleCommand(env), newStopCommand(env), newPsCommand(env))
	group("ship", "Ship them:", newPublishCommand(env), newRepoCommand(env), newServeCommand(env))
	root.AddCommand(newCompletionCommand(env), newManCommand(env))

	explainExits(root)
	return root
}

// needCommand is what eos and its groups of commands do without one.
func needCommand(cmd *cobra.Command, _ []string) error {
	return cli.Refuse(cli.Usage, errors.New("no command given"), "see "+cmd.CommandPath()+" --help")
}

// watchStart wraps all commands of the tree: it notes that one was started, sets env.JSON
// from its --json, and hands --cache to the packages that find their cache by $EOS_CACHE.
func watchStart(c *cobra.Command, env *cli.Env) *bool {
	started := new(bool)
	var wrap func(c *cobra.Command)
	wrap = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			wrap(sub)
		}
		if c.RunE == nil {
			return
		}
		work := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			if f := cmd.Flags().Lookup("json"); f != nil {
				env.JSON = f.Value.String() == "true"
			}
			if dir, _ := cmd.Flags().GetString("cache"); dir != "" {
				if err := os.Setenv("EOS_CACHE", dir); err != nil {
					return fmt.Errorf("set cache folder: %w", err)
				}
			}
			return work(cmd, args)
		}
	}
	wrap(c)
	return started
}

// explainExits puts the exit status of each command at the end of its help.
func explainExits(c *cobra.Command) {
	for _, sub := range c.Commands() {
		explainExits(sub)
	}
	if c.Parent() == nil {
		c.SetHelpTemplate(c.HelpTemplate() + `{{with index .Annotations "exit status"}}
Exit status:
{{.}}{{end}}`)
	}
	if c.RunE == nil {
		return
	}
	codes := []cli.Code{cli.OK, cli.Failure, cli.Usage}
	for word := range strings.SplitSeq(c.Annotations[exitAnnotation], ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(word)); err == nil {
			codes = append(codes, cli.Code(n))
		}
	}
	var text strings.Builder
	for _, code := range codes {
		fmt.Fprintf(&text, "  %-3d %s\n", int(code), code)
	}
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations["exit status"] = text.String()
}

// keysDir returns the keys directory: --keys, $EOS_KEYS, else one in the user's
// configuration. It need not exist.
func keysDir(cmd *cobra.Command, env *cli.Env) (string, error) {
	if dir, err := cmd.Flags().GetString("keys"); err == nil && dir != "" {
		return dir, nil
	}
	if dir := env.Getenv("EOS_KEYS"); dir != "" {
		return dir, nil
	}
	config := env.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		home := env.Getenv("HOME")
		if home == "" {
			return "", cli.Refuse(cli.Failure, errors.New("find keys directory: $HOME is not set"), "give it with --keys or $EOS_KEYS")
		}
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(config, "eos", "keys"), nil
}

// version returns what go build has noted about the source.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
