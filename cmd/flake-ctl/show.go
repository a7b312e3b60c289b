package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/OSInside/eos/internal/command"
	"github.com/OSInside/eos/internal/flake"
)

// instanceRecord is a container of a flake.
type instanceRecord struct {
	Name   value `json:"name"`
	User   value `json:"user"`
	ID     value `json:"id"`
	Status value `json:"status"`
	Image  value `json:"image"`
	Config value `json:"config"`
}

func (a *app) show() *cobra.Command {
	var f format
	c := &cobra.Command{
		Use: "show", Short: "Show the containers of flakes", Args: cobra.NoArgs,
		Long: "Shows the containers that flakes were started as, of the system's podman or with --user of the caller's.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, missing := a.where(a.user)
			if missing != nil && w.shipped == "" {
				return missing
			}
			configs, _ := flake.List(w.dir, w.shipped) // what is wrong with them is said by list
			records, err := a.instances(cmd.Context(), w, missing == nil, configs)
			l := listing{
				title: "Flake podman instances in the storage of " + w.runas, none: "No instance(s) found",
				columns: []string{"NAME", "USER", "ID", "STATUS", "IMAGE", "CONFIG"}, records: records,
			}
			for _, r := range records {
				id := string(r.ID)
				if f == "table" {
					id = id[:min(len(id), 12)]
				}
				l.rows = append(l.rows, []string{string(r.Name), string(r.User), id, string(r.Status), string(r.Image), string(r.Config)})
			}
			return errors.Join(l.print(a.env.Stdout, f), coded(errors.Join(missing, err)))
		},
	}
	f.add(c)
	return c
}

// instances asks podman, for each store there is. One that cannot be asked hides no other.
func (a *app) instances(ctx context.Context, w where, registry bool, configs []flake.Entry) ([]instanceRecord, error) {
	ps := []string{"ps", "--all", "--no-trunc", "--filter", "label=" + flake.Label, "--format", "json"}
	var calls []command.Cmd
	if registry {
		calls = append(calls, a.podman(w, ps...))
	}
	if _, err := os.Stat(a.at.memory); err == nil && w.shipped != "" {
		calls = append(calls, a.podman(w, append(flake.InMemory(), ps...)...))
	}
	all := []instanceRecord{}
	var problems []error
	for _, c := range calls {
		out, err := command.Output(ctx, c)
		if err == nil {
			var some []instanceRecord
			some, err = parseInstances(out, w.runas, configs)
			all = append(all, some...)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("show flakes: %w", err))
		}
	}
	slices.SortFunc(all, func(x, y instanceRecord) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.ID, y.ID)) })
	return all, errors.Join(problems...)
}

// parseInstances reads what podman ps prints.
func parseInstances(out []byte, login string, configs []flake.Entry) ([]instanceRecord, error) {
	var list []struct {
		ID     string `json:"Id"`
		State  string
		Image  string
		Labels map[string]string
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read podman's list of containers: %w", err)
	}
	var all []instanceRecord
	for _, c := range list {
		r := instanceRecord{Name: value(c.Labels[flake.Label]), User: value(login), ID: value(c.ID), Status: "stopped", Image: value(c.Image)}
		for _, e := range configs {
			if e.Name == string(r.Name) {
				r.Config = value(e.Config)
			}
		}
		if i := c.Labels[flake.LabelInstance]; i != "" {
			r.Name += value("@" + i)
		}
		if c.State == "running" {
			r.Status = "running"
		}
		all = append(all, r)
	}
	return all, nil
}
