package flake

import (
	"fmt"
	"regexp"
	"strings"
)

// Call is what a command line says: pilot arguments apart from those of the application.
type Call struct {
	Instance            string   // @NAME without the @; empty: any
	Progress            bool     // say what takes long
	Remove              bool     // remove a container that would stay
	IgnoreSyncError     bool     // go on without what of the host cannot be had
	IgnoreMissingVolume bool     // leave volumes out whose path on the host is missing
	Args                []string // of the application
}

// options are the words that a pilot knows after %. Streams are handed on always, so
// interactive says nothing.
var options = []string{"progress", "interactive", "remove", "ignore_sync_error", "ignore_missing_volume_path"}

var instance = regexp.MustCompile(`^@[A-Za-z0-9@=_-]{1,63}$`)

// ParseCall splits the arguments of a command. Words that begin with @ or % are the pilot's,
// up to the first --. A -- before all arguments of the application is the pilot's too; one
// between them is the application's, and only ends the pilot's.
func ParseCall(args []string) (*Call, error) {
	c := &Call{}
	for i, a := range args {
		switch {
		case a == "--" && len(c.Args) == 0:
			c.Args = args[i+1:]
			return c, nil
		case a == "--":
			c.Args = append(c.Args, args[i:]...)
			return c, nil
		case strings.HasPrefix(a, "@"):
			if !instance.MatchString(a) {
				return nil, fmt.Errorf("instance %q: want up to 63 of A-Z a-z 0-9 @ = _ - after the @", a)
			}
			if c.Instance == "" {
				c.Instance = a[1:]
			}
		case strings.HasPrefix(a, "%"):
			if err := c.option(a[1:]); err != nil {
				return nil, err
			}
		default:
			c.Args = append(c.Args, a)
		}
	}
	return c, nil
}

// option takes one word, which may have a value behind its last colon.
func (c *Call) option(word string) error {
	name, _, _ := strings.Cut(word, ":")
	switch name {
	case "progress":
		c.Progress = true
	case "interactive":
	case "remove":
		c.Remove = true
	case "ignore_sync_error":
		c.IgnoreSyncError = true
	case "ignore_missing_volume_path":
		c.IgnoreMissingVolume = true
	default:
		return fmt.Errorf("option %%%s: it is none of a flake's: %%%s", word, strings.Join(options, ", %"))
	}
	return nil
}
