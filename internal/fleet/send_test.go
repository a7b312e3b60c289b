package fleet

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/cli"
)

func TestCheckURL(t *testing.T) {
	for _, c := range []struct {
		url      string
		insecure bool
		want     string
	}{
		{"https://h/enroll", false, ""},
		{"http://h/enroll", true, ""},
		{"http://h/enroll", false, "over http"},
		{"https://user:geheim@h/", false, "name or password"},
		{"ftp://h/", true, "not a URL"},
		{"h/enroll", true, "not a URL"},
		{"https://", false, "not a URL"},
		{"https://h:\x00", false, "not a URL"},
	} {
		_, err := CheckURL(c.url, c.insecure)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || codeOf(err) != cli.Usage || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("CheckURL(%q, %v) = %v, want %q", c.url, c.insecure, err, c.want)
		}
	}
}

func TestSend(t *testing.T) {
	var got Enrolment
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ok", func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("the server got %v, %q", err, r.Header)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("/no", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "this machine is not expected\nmore", http.StatusForbidden)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.Handle("/moved", http.RedirectHandler("/ok", http.StatusTemporaryRedirect))
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection is not seen
		<-r.Context().Done()
	})
	s := httptest.NewTLSServer(mux)
	defer s.Close()
	d := device(t)
	e, err := d.Enroll(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	send := func(path string, client *http.Client) error {
		u, err := url.Parse(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		limit := time.Minute
		if path == "/slow" {
			limit = time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return Send(ctx, client, u, e)
	}
	if err := send("/ok", s.Client()); err != nil || got.AuthorizedKey != e.AuthorizedKey || got.Machine != e.Machine {
		t.Errorf("Send = %v, the server got %+v", err, got)
	}
	for _, c := range []struct {
		path   string
		client *http.Client
		code   cli.Code
		want   string
	}{
		{"/no", s.Client(), cli.Refused, "403 Forbidden: this machine is not expected"},
		{"/away", s.Client(), cli.Unreachable, "502"},
		{"/moved", s.Client(), cli.Refused, "307"},
		{"/slow", s.Client(), cli.Unreachable, "deadline"},
		{"/ok", nil, cli.Unreachable, "certificate"}, // of an authority that is not known
	} {
		err := send(c.path, c.client)
		if err == nil || codeOf(err) != c.code || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "more") {
			t.Errorf("Send to %s = %v (code %d), want %q (%d)", c.path, err, codeOf(err), c.want, c.code)
		}
	}
}
