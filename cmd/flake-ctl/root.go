package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/cli"
)

// app is the program in one place, for one call.
type app struct {
	env     *cli.Env
	at      place
	user    bool // --user: the caller's own flakes
	started bool // a command has been: what goes wrong now is not the command line
}

// Main is the program on this system.
func Main(ctx context.Context, env *cli.Env) error {
	at, err := thisPlace()
	if err != nil {
		return err
	}
	return run(ctx, env, at)
}

func run(ctx context.Context, env *cli.Env, at place) error {
	a := &app{env: env, at: at}
	root := a.root()
	root.SetArgs(expandLists(env.Args))
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil || a.started {
		return coded(err)
	}
	var c *cli.Error
	if errors.As(err, &c) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "\n") // cobra adds suggestions on further lines
	return cli.Refuse(cli.Usage, errors.New(text), cmd.CommandPath()+" --help says more")
}

// root returns the whole command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "flake-ctl",
		Short: "Register commands that are containers",
		Long: `flake-ctl registers flakes, commands that are containers, and shows them.

They are those of the system, in the registry, or with --user those of the caller.`,
		Example: `  flake-ctl podman load --oci lynx.oci.tar
  flake-ctl podman register --container localhost/lynx --app /usr/share/flakes/bin/lynx --target /usr/bin/lynx`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          needCommand,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	podman := &cobra.Command{
		Use: "podman", Short: "Flakes that podman starts", Args: cobra.NoArgs, RunE: needCommand,
		Long: "Gets containers, makes commands of them and takes these out again.",
	}
	podman.PersistentFlags().BoolVar(&a.user, "user", false, "the caller's own flakes, and the caller's podman")
	podman.AddCommand(a.pull(), a.load(), a.register(), a.show(), a.remove())
	root.AddCommand(podman, a.list(), a.clean(), a.init(), a.boot())
	root.SetVersionTemplate("flake-ctl {{.Version}}\n")
	a.prepare(root)
	return root
}

// prepare gives each command of the tree what all have.
func (a *app) prepare(c *cobra.Command) {
	for _, sub := range c.Commands() {
		a.prepare(sub)
	}
	c.Version = version()
	c.Flags().BoolP("version", "V", false, "print the version")
	c.Flags().SortFlags = false
	work := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a.started = true
		return work(cmd, args)
	}
}

// needCommand is what a group of commands does without one.
func needCommand(cmd *cobra.Command, _ []string) error {
	return cli.Refuse(cli.Usage, errors.New("no command given"), cmd.CommandPath()+" --help says more")
}

// note tells people something beside the result.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.env.Stderr, "flake-ctl: "+format+"\n", args...)
}

// lists are the options that take several values: one each, or all behind one option.
var lists = map[string]bool{"--layer": true, "--include-tar": true, "--include-path": true, "--opt": true}

// expandLists repeats the option before each further value of it. A value that begins with
// a - has a backslash before it there, so it is clear where they end.
func expandLists(args []string) []string {
	var out []string
	last := ""
	for i := 0; i < len(args); i++ {
		word := args[i]
		name, _, hasValue := strings.Cut(word, "=")
		switch {
		case word == "--" || strings.HasPrefix(args[0], "__"): // the latter are for completion
			return append(out, args[i:]...)
		case lists[name]:
			last, out = name, append(out, word)
			if !hasValue && i+1 < len(args) {
				i++
				out = append(out, args[i])
			}
		case strings.HasPrefix(word, "-"):
			last, out = "", append(out, word)
		case last != "":
			out = append(out, last, word)
		default:
			out = append(out, word)
		}
	}
	return out
}

// version is what go build has noted about the source.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "devel"
}
