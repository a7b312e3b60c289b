package update

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/cli"
	"github.com/OSInside/eos/internal/repository"
	"github.com/OSInside/eos/internal/slot"
	"github.com/OSInside/eos/internal/slotimage"
)

// Trust says where trust in a repository begins and where its metadata is
// cached.
type Trust struct {
	Root  string       // file with the root metadata that the image brought
	Cache string       // folder; empty: no cache
	HTTP  *http.Client // nil: the default one
	// Retries, Wait and Stall are the client's; zero means its defaults.
	Retries     int
	Wait, Stall time.Duration
}

// Choice says which image is wanted.
type Choice struct {
	Version        string // exactly this one; empty: the newest of the channel
	AllowDowngrade bool
}

// release is an image that may be installed on this device.
type release struct {
	client *repository.Client
	image  repository.Image
	m      *slotimage.Manifest
	block  []byte
}

// want is what an image must be made for.
type want struct{ name, class, arch, channel string }

func (s *session) want() (want, error) {
	own := s.manifests[s.d.Running]
	if own == nil {
		return want{}, unverified(fmt.Errorf("read own manifest in slot %s: %w", s.d.Running, s.problems[s.d.Running]))
	}
	w := want{name: s.Config.Name, class: s.Config.Class, arch: own.Arch, channel: s.Config.Channel}
	if w.name == "" {
		w.name = own.Name
	}
	if w.class == "" {
		w.class = own.Class
	}
	if w.channel == "" {
		w.channel = repository.Stable
	}
	return w, nil
}

// client makes the client for the configured server.
func (s *session) client(ctx context.Context) (*repository.Client, error) {
	cache := s.Trust.Cache
	if cache != "" && os.MkdirAll(cache, 0o700) != nil {
		cache = "" // it only saves bytes, and --read works for others than root
	}
	return s.clientOf(ctx, s.Config.Server, cache)
}

func (s *session) clientOf(ctx context.Context, address, cache string) (*repository.Client, error) {
	if address == "" {
		return nil, cli.Refuse(cli.Usage, errors.New("no update server is configured"), "set `server:` in "+ConfigFile+" or give --server")
	}
	server, err := ParseServer(address)
	if err != nil {
		return nil, err
	}
	base, transport := server.URL, s.Trust.HTTP
	if server.SSH != "" {
		if err := s.fetchKey(ctx); err != nil {
			return nil, err
		}
		_, host, _ := strings.Cut(server.SSH, "@")
		base, transport = "http://"+host, sshHTTP(server, s.Config.PKey)
	}
	root, err := os.ReadFile(s.Trust.Root)
	if err != nil {
		return nil, fmt.Errorf("read trusted root metadata: %w", err)
	}
	own := s.manifests[s.d.Running]
	now := func() time.Time { return s.now(own) }
	tlsConfig, err := s.Config.tlsConfig(now)
	if err != nil {
		return nil, err
	}
	return &repository.Client{
		BaseURL: base, HTTP: transport, TLS: tlsConfig, RootJSON: root, CacheDir: cache,
		Now: now, Floors: repository.Floors(s.d.Record.Floors),
		LimitRate: int64(s.Config.LimitRate), Retries: s.Trust.Retries, Wait: s.Trust.Wait, Stall: s.Trust.Stall,
	}, nil
}

// find fetches the metadata and picks the image. It refuses by what is known
// before the first byte of the image: the block that describes it is signed.
func (s *session) find(ctx context.Context, c Choice) (*release, error) {
	w, err := s.want()
	if err != nil {
		return nil, err
	}
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	cat, floors, err := client.Refresh(ctx)
	if err != nil {
		return nil, clientError(err)
	}
	s.d.Record.Floors = slot.Floors(floors)
	img, err := pick(cat, w, c)
	if err != nil {
		return nil, err
	}
	block, err := client.Manifest(ctx, img)
	if err != nil {
		return nil, clientError(err)
	}
	m, err := s.verifyBlock(img, block)
	if err != nil {
		return nil, err
	}
	return &release{client: client, image: img, m: m, block: block}, w.fits(m)
}

// pick chooses from what the repository offers.
func pick(cat *repository.Catalog, w want, c Choice) (repository.Image, error) {
	images := cat.Images(w.name, w.class, w.arch)
	if c.Version != "" {
		for _, img := range images {
			if img.Version == c.Version {
				return img, nil
			}
		}
		if len(images) > 0 {
			var have []string
			for _, img := range images {
				have = append(have, img.Version)
			}
			return repository.Image{}, cli.Refuse(cli.Refused, fmt.Errorf("version %s of %s is not in the repository", c.Version, w.name), "it has "+strings.Join(have, ", "))
		}
	}
	if img, ok := cat.Latest(w.name, w.class, w.arch, w.channel); ok {
		return img, nil
	}
	if len(images) > 0 {
		return repository.Image{}, cli.Refuse(cli.Refused, fmt.Errorf("channel %s of %s holds no image", w.channel, w.name), "")
	}
	return repository.Image{}, noImage(cat, w)
}

// noImage says what there is instead: most likely a device asks for the image of
// another one.
func noImage(cat *repository.Catalog, w want) error {
	var other, names []string
	for _, img := range cat.All() {
		if img.Name == w.name {
			other = append(other, fmt.Sprintf("class %s (%s)", img.Class, img.Arch))
		}
		names = append(names, img.Name)
	}
	if len(other) > 0 {
		return cli.Refuse(cli.Refused, fmt.Errorf("image %s is published for %s, this device is of class %s (%s)",
			w.name, strings.Join(slices.Compact(other), ", "), w.class, w.arch), "")
	}
	hint := "the repository is empty"
	if len(names) > 0 {
		hint = "it has " + strings.Join(slices.Compact(names), ", ")
	}
	if p := cat.Problems(); len(p) > 0 {
		hint += "; entries left out: " + strings.Join(p, "; ")
	}
	return cli.Refuse(cli.Refused, fmt.Errorf("image %s is not in the repository", w.name), hint)
}

// verifyBlock checks the slot manifest's own signature, which is not the
// repository's, and that it is about the image the repository spoke of.
func (s *session) verifyBlock(img repository.Image, raw []byte) (*slotimage.Manifest, error) {
	what := fmt.Sprintf("manifest of %s %s", img.Name, img.Version)
	b, err := slotimage.ParseBlock(raw)
	if err != nil {
		return nil, unverified(fmt.Errorf("%s: %w", what, err))
	}
	m, err := b.Verify(s.Accepted)
	if err != nil {
		return nil, unverified(fmt.Errorf("%s: %w", what, err))
	}
	if m.Name != img.Name || m.Class != img.Class || m.Arch != img.Arch || m.Version != img.Version ||
		m.BuildID != img.BuildID || m.DataSize != img.DataSize || m.ImageSize != img.ImageSize {
		return nil, unverified(fmt.Errorf("%s: it is for %s %s, class %s (%s), build %s, and not what the repository says", what, m.Name, m.Version, m.Class, m.Arch, m.BuildID))
	}
	return m, nil
}

// fits refuses an image that is for something else than this device.
func (w want) fits(m *slotimage.Manifest) error {
	switch {
	case m.Name != w.name:
		return cli.Refuse(cli.Refused, fmt.Errorf("image is %s, this device runs %s", m.Name, w.name), "")
	case m.Arch != w.arch:
		return cli.Refuse(cli.Refused, fmt.Errorf("image %s %s is for architecture %s, this device is %s", m.Name, m.Version, m.Arch, w.arch), "")
	case m.Class != w.class:
		return cli.Refuse(cli.Refused, fmt.Errorf("image %s %s is for device class %s, this device is of class %s", m.Name, m.Version, m.Class, w.class), "")
	}
	return nil
}

// errUpToDate ends the search for an update without an error to the user.
var errUpToDate = errors.New("up to date")

// wanted refuses an image that is not newer than what runs, or does not fit.
func (s *session) wanted(m *slotimage.Manifest, c Choice) error {
	own := s.manifests[s.d.Running]
	switch d := repository.CompareVersions(m.Version, own.Version); {
	case d == 0 && (m.BuildID == own.BuildID || !c.AllowDowngrade):
		return errUpToDate
	case d < 0 && !c.AllowDowngrade:
		return cli.Refuse(cli.Refused, fmt.Errorf("version %s is older than %s, which runs", m.Version, own.Version), "--allow-downgrade installs it all the same")
	}
	if s.d.Static {
		return nil // the plan refuses, with the better words
	}
	b, err := s.Machine.OpenSlot(s.d.Running.Other(), false)
	if err != nil {
		return err
	}
	defer b.Close()
	if size := b.Size(); m.ImageSize > size {
		return cli.Refuse(cli.Refused, fmt.Errorf("image %s %s is larger than slot %s: %d bytes, the slot has %d", m.Name, m.Version, s.d.Running.Other(), m.ImageSize, size), "build it smaller, or write a disk image with larger slots")
	}
	return nil
}

// clientError gives an error of the repository client its exit code and hint.
func clientError(err error) error {
	var has *cli.Error
	if err == nil || errors.As(err, &has) || errors.Is(err, context.Canceled) {
		return err
	}
	hint := cmp.Or(sshHint(err), tlsHint(err))
	if errors.Is(err, repository.ErrExpired) {
		hint = "the publisher has to sign again (eos publish --refresh), or this device's clock is wrong"
	}
	return cli.Refuse(clientCode(err), err, hint)
}

// clientCode tells trouble on the way from metadata that must not be used.
func clientCode(err error) cli.Code {
	switch {
	case repository.IsTransport(err), errors.Is(err, io.ErrUnexpectedEOF):
		return cli.Unreachable
	case errors.Is(err, repository.ErrExpired), errors.Is(err, repository.ErrRollback):
		return cli.Refused
	case errors.Is(err, repository.ErrUntrusted), errors.Is(err, repository.ErrTooLarge):
		return cli.Unverified
	}
	return cli.Failure
}
