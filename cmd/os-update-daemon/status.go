package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/origin"
	"github.com/OSInside/eos/internal/serve"
)

const statusUsage = `Usage: os-update-daemon status [OPTION...]

Says how the images stand that are configured or were fetched, and until when devices accept the
repository. What is broken is said and keeps nothing else from being said.

Options:
  --config FILE     the images (default /etc/os-update.yml)
  --images DIR      where they are kept (default /srv/www/fleet/os-images)
  --repo DIR        the repository (default /srv/www/fleet/repository)
  --json            as JSON

Exit status: 0 whatever it has to say, 2 usage.
`

func statusFlags(o *options, fs *flag.FlagSet) {
	configFlag(o, fs)
	imagesFlag(o, fs)
	repoFlag(o, fs)
	jsonFlag(o, fs)
}

// A report is the answer of status.
type report struct {
	Images     []imageReport `json:"images"`
	Repository repoReport    `json:"repository"`
	Problems   []string      `json:"problems"`
}

type imageReport struct {
	origin.State
	Configured bool `json:"configured"`
}

type repoReport struct {
	Folder  string     `json:"folder"`
	Expires *time.Time `json:"expires,omitempty"`
	Error   string     `json:"error,omitempty"`
}

// The disk of an update server, where the image has a unit for it.
const (
	diskFolder = "/srv/www/fleet"
	diskUnit   = "/usr/lib/systemd/system/srv-www-fleet.mount"
)

func runStatus(env *cli.Env, o *options) error {
	r := gather(o, time.Now())
	if p := diskProblem(diskUnit, diskFolder); p != "" {
		r.Problems = append([]string{p}, r.Problems...)
	}
	if o.json {
		return cli.PrintJSON(env.Stdout, r)
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tSIZE\tSHA-256\tFETCHED\tCHECKED\tVERIFIED BY\tLAST ERROR")
	for _, i := range r.Images {
		fmt.Fprintln(w, strings.Join(i.row(), "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	lines := []string{"", "repository " + r.Repository.text()}
	for _, p := range r.Problems {
		lines = append(lines, "problem: "+plain(p))
	}
	if _, err := fmt.Fprintln(env.Stdout, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// gather asks all there is, and goes on where something does not answer.
func gather(o *options, now time.Time) *report {
	r := &report{Images: []imageReport{}, Problems: []string{}, Repository: repoReport{Folder: o.repo}}
	c, err := origin.LoadConfig(o.config)
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	known, err := (&origin.Site{Dir: o.images}).Status()
	if err != nil {
		r.Problems = append(r.Problems, strings.Split(err.Error(), "\n")...)
	}
	for _, st := range known {
		r.Images = append(r.Images, imageReport{State: st})
	}
	for _, src := range c.Update {
		i := slices.IndexFunc(r.Images, func(i imageReport) bool { return i.Name == src.Name })
		if i < 0 {
			i = len(r.Images)
			r.Images = append(r.Images, imageReport{State: origin.State{Source: src}})
		}
		r.Images[i].Configured = true
	}
	slices.SortFunc(r.Images, func(a, b imageReport) int { return cmp.Compare(a.Name, b.Name) })
	if at, err := expires(o.repo); err != nil {
		r.Repository.Error = err.Error()
	} else if r.Repository.Expires = &at; !at.After(now) {
		r.Repository.Error = serve.ErrExpired.Error()
	}
	return r
}

func expires(repo string) (time.Time, error) {
	h, err := serve.New(repo, nil)
	if err != nil {
		return time.Time{}, err
	}
	defer h.Close()
	return h.Expires()
}

// diskProblem says that a disk which there is a unit for is not mounted.
func diskProblem(unit, folder string) string {
	if _, err := os.Stat(unit); errors.Is(err, fs.ErrNotExist) {
		return "" // the folder is no disk of its own
	}
	var at, above unix.Stat_t
	if err := errors.Join(unix.Stat(folder, &at), unix.Stat(filepath.Dir(folder), &above)); err != nil {
		return fmt.Sprintf("look at %s: %v", folder, err)
	}
	if at.Dev != above.Dev {
		return ""
	}
	return fmt.Sprintf("no disk is mounted at %s: nothing is fetched or served; systemctl status %s says more (it takes a file system with the label eos-fleet)",
		folder, filepath.Base(unit))
}

func (i imageReport) row() []string {
	row := []string{plain(i.Name), "-", "-", "-", when(i.Fetched), when(i.Checked), "-", "-"}
	if i.Version != "" {
		row[1] = plain(i.Version)
	}
	if !i.Fetched.IsZero() {
		row[2], row[3] = humanize.IBytes(uint64(max(i.Size, 0))), fmt.Sprintf("%.12s", plain(i.SHA256))
	}
	if len(i.Checks) > 0 {
		row[6] = plain(strings.Join(i.Checks, ", "))
	}
	switch {
	case i.Error != "":
		row[7] = plain(i.Error)
	case !i.Configured:
		row[7] = "no longer configured"
	case i.Checked.IsZero():
		row[7] = "not asked for yet"
	}
	return row
}

func (r repoReport) text() string {
	switch {
	case r.Expires == nil:
		return r.Folder + ": " + plain(r.Error)
	case r.Error != "":
		return fmt.Sprintf("%s: %s, at %s", r.Folder, r.Error, when(*r.Expires))
	}
	return fmt.Sprintf("%s: good until %s", r.Folder, when(*r.Expires))
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

// plain keeps what others wrote on one line, and away from the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
