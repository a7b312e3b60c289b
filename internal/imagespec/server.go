package imagespec

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

const maxInterval = 366 * 24 * time.Hour

var (
	copyName      = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z_-]*(\.[0-9A-Za-z_-]+)*\.raw$`)
	listenAddress = regexp.MustCompile(`^([0-9A-Za-z.-]*|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$`)
	// Options of a unit are words; systemd would see more in other characters.
	wordPath = regexp.MustCompile(`^[0-9A-Za-z/._+@-]+$`)
)

// checkServer checks what an update server does. In the image of anything else it would be
// without effect, and somebody would believe that it has one.
func (d *decoder) checkServer(s *Spec) {
	if s.Profile != ProfileServer {
		if d.set("server") {
			d.bad("server", "write it below profiles: "+ProfileServer+":", "is for the profile %s alone", ProfileServer)
		}
		return
	}
	v := s.Server
	var names []string
	for i, image := range v.Images {
		key := elem("server.images", i)
		names = append(names, image.Name)
		if !isWebURL(image.Image) {
			d.bad(key+".image", "want the URL of a .raw, .raw.xz or .raw.zst", "%q is not an http or https URL", image.Image)
		}
		if image.Name == "repository.raw" {
			d.bad(key+".name", "choose another", "%q is for the repository", image.Name)
		} else if len(image.Name) > 180 || !copyName.MatchString(image.Name) {
			d.bad(key+".name", "want letters, digits, '.', '_' and '-', and .raw at the end, as EOS.x86_64.raw", "%q is not the name of a copy", image.Name)
		}
		if what, fix := badPath(image.Keyring, false); image.Keyring != "" && what != "" {
			d.bad(key+".keyring", fix, "%q %s", image.Keyring, what)
		}
	}
	d.unique("server.images", names)
	if v.Mirror != "" && !isWebURL(v.Mirror) {
		d.bad("server.mirror", "want the URL of a repository", "%q is not an http or https URL", v.Mirror)
	}
	if t := time.Duration(v.Interval); t < time.Second || t > maxInterval {
		d.bad("server.interval", "", "%s is not from 1s to %s", t, maxInterval)
	}
	for _, f := range []struct{ key, value string }{{"server.listen", v.Listen}, {"server.metrics", v.Metrics}} {
		if f.value != "" && !listenAddress.MatchString(f.value) {
			d.bad(f.key, "want address and port, as :8080 or 127.0.0.1:9091", "%q is not where to listen", f.value)
		}
	}
	for _, f := range []struct{ key, value string }{
		{"server.certificate", v.Certificate}, {"server.key", v.Key}, {"server.client_ca", v.ClientCA},
	} {
		if f.value == "" {
			continue
		}
		if what, fix := badPath(f.value, false); what != "" {
			d.bad(f.key, fix, "%q %s", f.value, what)
		} else if !wordPath.MatchString(f.value) {
			d.bad(f.key, "want letters, digits and / . _ + @ - alone", "%q has other characters in it", f.value)
		}
	}
	switch {
	case (v.Certificate == "") != (v.Key == ""):
		d.bad("server.certificate", "a certificate is of use with its private key", "and server.key are given one without the other")
	case v.ClientCA != "" && v.Certificate == "":
		d.bad("server.client_ca", "clients have certificates where the server has one", "is given without server.certificate")
	}
}

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && !strings.ContainsAny(s, " \t\r\n\"'")
}
