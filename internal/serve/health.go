package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/OSInside/eos/internal/repository"
)

// ErrExpired: the repository is there, but its metadata has expired, and devices refuse it.
var ErrExpired = errors.New("the repository's metadata has expired")

// maxTimestamp bounds what is read of timestamp.json; devices take no larger one either.
const maxTimestamp = 16 << 10

// Expires returns until when devices accept what is served now. Nothing is verified: that is for
// those who trust it.
func (h *Handler) Expires() (time.Time, error) {
	f, err := h.root.Open(repository.TimestampName)
	if err != nil {
		return time.Time{}, fmt.Errorf("read repository: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTimestamp))
	if err != nil {
		return time.Time{}, fmt.Errorf("read repository: %w", err)
	}
	var m struct {
		Signed struct {
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return time.Time{}, fmt.Errorf("read repository: %s: %w", repository.TimestampName, err)
	}
	return m.Signed.Expires, nil
}

// A Health answers whether this server is of use to devices: 200 if it is, 503 with the reason if
// not. Load balancers and people ask it.
type Health struct {
	Handler *Handler
	Now     func() time.Time // nil: the system's clock
}

// ServeHTTP implements http.Handler.
func (s Health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	answer := struct {
		OK      bool       `json:"ok"`
		Expires *time.Time `json:"expires,omitempty"`
		Error   string     `json:"error,omitempty"`
	}{OK: true}
	at, err := s.Handler.Expires()
	if err == nil {
		if answer.Expires = &at; !at.After(now()) {
			err = ErrExpired
		}
	}
	status := http.StatusOK
	if err != nil {
		answer.OK, answer.Error, status = false, err.Error(), http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // who does not wait for the answer does not want it
}
