package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/flake"
)

// flakeRecord is a line of the list.
type flakeRecord struct {
	Name   value `json:"name"`
	Engine value `json:"engine"`
	Target value `json:"target"`
	Host   value `json:"host_app_path"`
	Config value `json:"config"`
}

func (a *app) list() *cobra.Command {
	var f format
	var isUser bool
	c := &cobra.Command{
		Use: "list", Short: "List the flakes that are registered", Args: cobra.NoArgs,
		Long: "Lists the flakes of the system, those of the image among them, or with --user those of the caller.\n" +
			"One whose files cannot be read is in the list as well; why is said beside it, and the exit status is 1.",
		RunE: func(*cobra.Command, []string) error {
			w, missing := a.where(isUser)
			if missing != nil && w.shipped == "" {
				return missing
			}
			all, err := flake.List(w.dir, w.shipped)
			problems := []error{missing, err}
			l := listing{
				title: "Flake applications registered in " + w.dir, none: "No application(s) registered",
				columns: []string{"NAME", "ENGINE", "TARGET APP PATH", "HOST APP PATH", "CONFIG"},
			}
			if missing != nil {
				l.title = "Flake applications registered in " + w.shipped
			}
			records := []flakeRecord{}
			for _, e := range all {
				problems = append(problems, e.Err)
				records = append(records, flakeRecord{value(e.Name), value(e.Engine), value(e.Target), value(e.Host), value(e.Config)})
				l.rows = append(l.rows, []string{e.Name, e.Engine, e.Target, e.Host, e.Config})
			}
			l.records = records
			return errors.Join(l.print(a.env.Stdout, f), coded(errors.Join(problems...)))
		},
	}
	c.Flags().BoolVar(&isUser, "user", false, "the caller's own flakes")
	f.add(c)
	return c
}
