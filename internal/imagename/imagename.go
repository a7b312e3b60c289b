// Package imagename knows the names of container images: what a short name means on a
// device, and what a name has to look like that is fetched from a registry.
//
// [Local] gives the full name an image is stored under, as podman makes it: basesystem is
// localhost/basesystem:latest. [Pinned] takes a name in a registry apart that is pinned by
// its digest, [Tagged] one that an image is pushed to. The grammar is that of the OCI distribution specification, with the host in
// front that container tools write.
//
// Short names are never completed to a public registry. The package is pure and uses only
// the standard library.
package imagename

import (
	"fmt"
	"net"
	"regexp"
	"strings"
)

// maxName bounds a full name; registries do not take longer ones.
const maxName = 255

var (
	host   = regexp.MustCompile(`^([0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?(\.[0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?)*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$`)
	path   = regexp.MustCompile(`^[0-9a-z]+((\.|_|__|-+)[0-9a-z]+)*(/[0-9a-z]+((\.|_|__|-+)[0-9a-z]+)*)*$`)
	tag    = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}$`)
	digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Local returns the full name of an image on a device: with localhost where name has no
// registry, and the tag latest where it has none.
func Local(name string) (string, error) {
	if strings.Contains(name, "@") {
		return "", fmt.Errorf("name of container image %q: a digest is no name", name)
	}
	registry, rest := split(name)
	if registry == "" {
		registry = "localhost"
	}
	repository, version := rest, "latest"
	if at := strings.LastIndexByte(rest, ':'); at >= 0 {
		repository, version = rest[:at], rest[at+1:]
	}
	full := registry + "/" + repository + ":" + version
	if len(full) > maxName || !host.MatchString(registry) || !path.MatchString(repository) || !tag.MatchString(version) {
		return "", fmt.Errorf("name of container image %q: want lower-case letters and digits, as basesystem or apps/lynx:1.0", name)
	}
	return full, nil
}

// A Source is an image in a registry.
type Source struct {
	Registry   string // host, and port where it has one
	Repository string
	Digest     string // sha256:...
}

// String returns the name that [Pinned] parses.
func (s Source) String() string { return s.Registry + "/" + s.Repository + "@" + s.Digest }

// Local reports whether the registry is on this very machine.
func (s Source) Local() bool { return Loopback(s.Registry) }

// Pinned parses REGISTRY/NAME@sha256:DIGEST. A tag beside the digest is an error: it would
// say nothing.
func Pinned(name string) (Source, error) {
	rest, sum, found := strings.Cut(name, "@")
	if !found {
		return Source{}, fmt.Errorf("container image %q: has no digest; want REGISTRY/NAME@sha256:DIGEST", name)
	}
	registry, repository := split(rest)
	switch {
	case registry == "":
		return Source{}, fmt.Errorf("container image %q: has no registry; want REGISTRY/NAME@sha256:DIGEST", name)
	case !digest.MatchString(sum):
		return Source{}, fmt.Errorf("container image %q: %q is not a digest; want sha256: and 64 digits of 0-9a-f", name, sum)
	case strings.Contains(repository, ":"):
		return Source{}, fmt.Errorf("container image %q: has a tag and a digest; leave the tag out", name)
	case len(name) > maxName+72 || !host.MatchString(registry) || !path.MatchString(repository):
		return Source{}, fmt.Errorf("container image %q: is not REGISTRY/NAME@sha256:DIGEST", name)
	}
	return Source{Registry: registry, Repository: repository, Digest: sum}, nil
}

// A Target is where an image in a registry is, or goes to.
type Target struct {
	Registry   string // host, and port where it has one
	Repository string
	Tag        string
}

// String returns the full name.
func (t Target) String() string { return t.Registry + "/" + t.Repository + ":" + t.Tag }

// Local reports whether the registry is on this very machine.
func (t Target) Local() bool { return Loopback(t.Registry) }

// Tagged parses REGISTRY/NAME[:TAG]. Without a tag it is latest.
func Tagged(name string) (Target, error) {
	registry, rest := split(name)
	repository, version, found := strings.Cut(rest, ":")
	if !found {
		version = "latest"
	}
	t := Target{registry, repository, version}
	if registry == "" || len(t.String()) > maxName || !host.MatchString(registry) || !path.MatchString(repository) || !tag.MatchString(version) {
		return Target{}, fmt.Errorf("container image %q: want REGISTRY/NAME:TAG, as registry.example.com/apps/lynx:1.0", name)
	}
	return t, nil
}

// Scope checks REGISTRY[/NAME], which stands for all images below it.
func Scope(name string) error {
	registry, repository, found := strings.Cut(name, "/")
	if len(name) > maxName || !host.MatchString(registry) || found && !path.MatchString(repository) {
		return fmt.Errorf("images below %q: want REGISTRY or REGISTRY/PATH, as registry.example.com/apps", name)
	}
	return nil
}

// Loopback reports whether a host, with or without a port, is this machine by its name or
// address alone.
func Loopback(hostPort string) bool {
	h := hostPort
	if name, _, err := net.SplitHostPort(hostPort); err == nil {
		h = name
	}
	h = strings.Trim(h, "[]")
	if ip := net.ParseIP(h); ip != nil {
		return ip.IsLoopback()
	}
	return h == "localhost"
}

// split takes the registry from a name: a first part with a dot or a port in it, or
// localhost. Without one it is empty.
func split(name string) (registry, rest string) {
	first, rest, found := strings.Cut(name, "/")
	if found && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return first, rest
	}
	return "", name
}
