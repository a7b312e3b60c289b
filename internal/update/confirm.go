package update

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// confirmWait is the longest pause between two rounds of questions, confirmLimit how long one
// server may keep the next from being asked.
const (
	confirmWait  = 15 * time.Second
	confirmLimit = 20 * time.Second
)

// ConfirmResult says what a confirmation found.
type ConfirmResult struct {
	Trial bool `json:"trial"`
	// Server is the repository that answered, empty if none was asked.
	Server string `json:"server,omitempty"`
	// Asked is how often.
	Asked int `json:"asked"`
}

// Confirm waits, in a trial, until a repository answers with metadata that the image
// on trial trusts: the one it is configured for, or the one it came from. An image
// that has lost its network, its certificates or its root of trust could never be
// updated again, and no other health check would notice.
//
// It returns at once where nothing is on trial or no repository is known. Otherwise only
// an answer or the end of the context ends it; the caller bounds it by the time that a
// trial has. It takes no lock and writes nothing.
func (u *Updater) Confirm(ctx context.Context) (*ConfirmResult, error) {
	s, err := u.open()
	if err != nil {
		return nil, err
	}
	res := &ConfirmResult{Trial: s.d.OnTrial()}
	servers := s.confirmers()
	if !res.Trial || len(servers) == 0 {
		return res, nil
	}
	said := map[string]string{}
	pause := cmp.Or(u.Trust.Wait, time.Second)
	for {
		for _, server := range servers {
			res.Asked++
			err := s.ask(ctx, server)
			if err == nil {
				res.Server = server
				return res, nil
			}
			if ctx.Err() != nil {
				return res, context.Cause(ctx)
			}
			if said[server] != err.Error() {
				said[server] = err.Error()
				u.Progress.Note("%s does not confirm the trial: %v", server, err)
			}
		}
		select {
		case <-ctx.Done():
			return res, context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, confirmWait)
	}
}

// confirmers are the repositories that can confirm the trial.
func (s *session) confirmers() []string {
	known := []string{s.Config.Server}
	if t := s.d.Record.Trial; t != nil {
		known = append(known, t.Server)
	}
	var seen []Server // the same one may be written in two ways
	return slices.DeleteFunc(known, func(address string) bool {
		server, err := ParseServer(address)
		if err != nil || slices.Contains(seen, server) {
			return true
		}
		seen = append(seen, server)
		return false
	})
}

// ask fetches a repository's metadata, as the next check for updates will.
func (s *session) ask(ctx context.Context, server string) error {
	client, err := s.clientOf(ctx, server, "")
	if err != nil {
		return err
	}
	client.Retries = -1 // Confirm itself asks again
	ctx, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	_, _, err = client.Refresh(ctx)
	return err
}
