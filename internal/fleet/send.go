package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/OSInside/eos/internal/cli"
)

// How long a server may take, and how much of its answer is shown.
const (
	sendLimit = time.Minute
	maxAnswer = 512
)

// CheckURL says whether an enrolment may be sent to a URL. A name and a password in it would
// be seen by everybody on the device who can list processes.
func CheckURL(text string, insecure bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, cli.Refuse(cli.Usage, fmt.Errorf("send to %q: it is not a URL", text), "want one as https://HOST/PATH")
	case u.User != nil:
		return nil, cli.Refuse(cli.Usage, errors.New("send to a URL with a name or password in it: everybody on the device could read it"), "")
	case u.Scheme == "http" && !insecure:
		return nil, cli.Refuse(cli.Usage, fmt.Errorf("send to %q: over http anybody on the way could put a key of their own in its place", text),
			"want an https URL; --insecure sends it all the same")
	}
	return u, nil
}

// Send posts the enrolment as JSON to a URL. Any status of 2xx is success; it follows no
// redirection, so that an answer is of the server that was named. client may be nil.
func Send(ctx context.Context, client *http.Client, u *url.URL, e *Enrolment) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write enrolment: %w", err)
	}
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
			TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
		}}
	}
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("send enrolment: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return cli.Refuse(cli.Unreachable, fmt.Errorf("send enrolment: %w", err), sendHint(err))
	}
	defer res.Body.Close()
	if res.StatusCode/100 == 2 {
		return nil
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		answer = nil // the status says enough
	}
	text := "send enrolment to " + u.String() + ": " + res.Status
	if line, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n"); line != "" {
		text += ": " + strings.ToValidUTF8(line, "?")
	}
	switch {
	case res.StatusCode/100 == 3:
		return cli.Refuse(cli.Refused, errors.New(text), "redirections are not followed; the server sends to "+res.Header.Get("Location"))
	case res.StatusCode/100 == 5:
		return cli.Refuse(cli.Unreachable, errors.New(text), "")
	}
	return cli.Refuse(cli.Refused, errors.New(text), "")
}

// sendHint says what to do about a server that is not known by its certificate.
func sendHint(err error) string {
	var unknown *tls.CertificateVerificationError
	if errors.As(err, &unknown) {
		return "the image needs the authority of this server (package ca-certificates), and the device the right time"
	}
	return ""
}
