package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/OSInside/eos/internal/cli"
)

func newManCommand(*cli.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages of eos",
		Long:  "Writes a man page for eos and for each of its commands to the folder DIR, which is made if need be.",
		Example: `  eos man build/man
  SOURCE_DATE_EPOCH=0 eos man build/man`,
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make folder for man pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			prepareMan(root)
			header := &doc.GenManHeader{Section: "1", Source: "EOS", Manual: "EOS"}
			if os.Getenv("SOURCE_DATE_EPOCH") == "" {
				// The day of the source, not today's: the same source gives the same pages.
				day := commitTime()
				header.Date = &day
			}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write man pages: %w", err)
			}
			return nil
		},
	}
}

// commitTime returns when the source of this program was committed, as far as go build knew.
func commitTime() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key != "vcs.time" {
				continue
			}
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Unix(0, 0).UTC()
}

// prepareMan makes sections of what the help shows as indented text, which a man page
// would run together.
func prepareMan(c *cobra.Command) {
	for _, sub := range c.Commands() {
		prepareMan(sub)
	}
	long := c.Long
	if long == "" {
		long = c.Short
	}
	var out strings.Builder
	indented := false
	for line := range strings.SplitSeq(long, "\n") {
		if in := strings.HasPrefix(line, "  "); in != indented {
			out.WriteString("```\n")
			indented = in
		}
		out.WriteString(line + "\n")
	}
	if indented {
		out.WriteString("```\n")
	}
	if status := c.Annotations["exit status"]; status != "" {
		out.WriteString("\n# EXIT STATUS\n```\n" + status + "```\n")
	}
	c.Long = out.String()
}
