package repository

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/OSInside/eos/internal/key"
)

// newKey makes a key pair in the keys folder, and puts it on the ring.
func (s *site) newKey(name string) ed25519.PrivateKey {
	s.t.Helper()
	if err := key.Generate(s.keys, name); err != nil {
		s.t.Fatal(err)
	}
	k := s.key(name + ".key")
	s.opts.Keys = append(s.opts.Keys, k)
	return k
}

func idOf(k ed25519.PrivateKey) string { return key.ID(k.Public().(ed25519.PublicKey)) }

// exchangeOf is the rotation that puts the key with the name role-2 in the place of role.
func (s *site) exchangeOf(role string) Rotation {
	return Rotation{
		Role: role, Add: []ed25519.PublicKey{s.newKey(role + "-2").Public().(ed25519.PublicKey)},
		Remove: []string{idOf(s.key(role + ".key"))},
	}
}

// without returns the ring without a key.
func (ring Keyring) without(k ed25519.PrivateKey) Keyring {
	var rest Keyring
	for _, have := range ring {
		if !have.Equal(k) {
			rest = append(rest, have)
		}
	}
	return rest
}

// TestRotate exchanges the key of each role, killed before every change to the file system.
// Devices read on all the while, new ones and those that keep a cache; whoever publishes next
// has only the new key.
func TestRotate(t *testing.T) {
	for _, role := range []string{RoleRoot, RoleTargets, RoleOnline} {
		for _, lost := range []bool{false, true} {
			if lost && role == RoleRoot {
				continue // nobody could follow, see TestRotateRefused
			}
			t.Run(fmt.Sprintf("%s lost=%v", role, lost), func(t *testing.T) {
				s := newSite(t)
				one, two := s.slot("1"), s.slot("2")
				rot := s.exchangeOf(role)
				all := s.opts.Keys
				if lost {
					s.opts.Keys = all.without(s.key(role + ".key"))
				}
				errCut := errors.New("cut")
				for cut, done := 0, false; !done; cut++ {
					s.dir = filepath.Join(t.TempDir(), "repo")
					s.publishWith(all, one)
					server := s.serve(nil)
					cached := s.client(server)
					cached.CacheDir = t.TempDir()
					look := func(when string) {
						t.Helper()
						for what, c := range map[string]*Client{"new": s.client(server), "cached": cached} {
							if got, err := s.look(c); got != "1" || err != nil {
								t.Fatalf("cut %d, %s: a %s device sees %q, %v", cut, when, what, got, err)
							}
						}
					}
					look("before")
					ops := 0
					f := &folder{dir: s.dir, step: func(op string) error {
						if ops++; ops-1 == cut {
							return errCut
						}
						if !lost {
							look("before " + op)
						}
						return nil
					}}
					r := &Repository{store: f}
					rotated, err := r.Rotate(t.Context(), rot, s.opts)
					if done = err == nil; !done && !errors.Is(err, errCut) {
						t.Fatalf("cut %d: Rotate = %v", cut, err)
					}
					if done && (rotated.Gap != lost || rotated.Versions.Root != 2) {
						t.Fatalf("Rotate = %+v, want gap %v and root 2", rotated, lost)
					}
					f.step = nil
					if !lost {
						look("after the cut")
					}
					// Whoever is next has only the new key, or finishes first with those of before.
					fresh := s.opts
					fresh.Keys = all.without(s.key(role + ".key"))
					if ids, _, err := r.RoleKeys(t.Context(), role); err != nil {
						t.Fatal(err)
					} else if ids[0] != key.ID(rot.Add[0]) {
						if _, err := r.Rotate(t.Context(), rot, s.opts); err != nil {
							t.Fatalf("cut %d: Rotate again = %v", cut, err)
						}
					}
					if _, err := r.Refresh(t.Context(), fresh); err != nil {
						t.Fatalf("cut %d: Refresh with the new key = %v", cut, err)
					}
					look("after it was finished")
					if _, err := r.Publish(t.Context(), []string{two}, fresh); err != nil {
						t.Fatalf("cut %d: Publish with the new key = %v", cut, err)
					}
					if got, err := s.look(cached); got != "1 2" || err != nil {
						t.Fatalf("cut %d: in the end a device sees %q, %v", cut, got, err)
					}
					old := s.opts
					old.Keys = all.without(s.key(role + "-2.key"))
					if role == RoleRoot {
						_, err = r.Rotate(t.Context(), Rotation{Role: RoleOnline}, old)
					} else {
						_, err = r.Publish(t.Context(), nil, old)
					}
					if !errors.Is(err, ErrNoKeys) {
						t.Fatalf("cut %d: the old key still signs: %v", cut, err)
					}
				}
			})
		}
	}
}

// publishWith publishes with certain keys.
func (s *site) publishWith(ring Keyring, files ...string) {
	s.t.Helper()
	had := s.opts.Keys
	s.opts.Keys = ring
	s.publish(files...)
	s.opts.Keys = had
}

// TestRotateMeanwhile exchanges the online key while a device is between the root and the
// timestamp.
func TestRotateMeanwhile(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	rot, rotated := s.exchangeOf(RoleOnline), 0
	server := s.serve(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/timestamp.json") && rotated == 0 {
				rotated++
				if _, err := (&Repository{store: &folder{dir: s.dir}}).Rotate(t.Context(), rot, s.opts); err != nil {
					t.Error(err)
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	if got, err := s.look(s.client(server)); got != "1" || err != nil || rotated != 1 {
		t.Errorf("device in the middle of %d rotations sees %q, %v", rotated, got, err)
	}
}

// TestRotateThreshold goes from one targets key to two of three.
func TestRotateThreshold(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	server := s.serve(nil)
	r := &Repository{store: &folder{dir: s.dir}}
	second, third := s.newKey("targets-2"), s.newKey("targets-3")
	rot := Rotation{
		Role: RoleTargets, Threshold: 2,
		Add: []ed25519.PublicKey{second.Public().(ed25519.PublicKey), third.Public().(ed25519.PublicKey)},
	}
	if _, err := r.Rotate(t.Context(), rot, s.opts); err != nil {
		t.Fatal(err)
	}
	ids, threshold, err := r.RoleKeys(t.Context(), RoleTargets)
	if err != nil || len(ids) != 3 || threshold != 2 {
		t.Errorf("RoleKeys = %v, %d, %v; want 3 keys, threshold 2", ids, threshold, err)
	}
	two := s.opts
	two.Keys = two.Keys.without(second)
	if _, err := r.Publish(t.Context(), []string{s.slot("2")}, two); err != nil {
		t.Errorf("Publish with two of three keys = %v", err)
	}
	if got, err := s.look(s.client(server)); got != "1 2" || err != nil {
		t.Errorf("device sees %q, %v; want 1 2", got, err)
	}
	two.Keys = two.Keys.without(third)
	if _, err := r.Publish(t.Context(), nil, two); !errors.Is(err, ErrNoKeys) {
		t.Errorf("Publish with one of three keys = %v, want %v", err, ErrNoKeys)
	}
	// Taking one key away leaves two, taking two would leave less than are wanted.
	lost := Rotation{Role: RoleTargets, Remove: []string{idOf(second), idOf(third)}}
	if _, err := r.Rotate(t.Context(), lost, s.opts); err == nil || !strings.Contains(err.Error(), "2 signatures would be wanted, of 1 keys") {
		t.Errorf("Rotate to fewer keys than the threshold = %v", err)
	}
}

func TestRotateRefused(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.publish(s.slot("1"))
	r := &Repository{store: &folder{dir: s.dir}}
	fresh := s.newKey("fresh").Public().(ed25519.PublicKey)
	stranger := other.key(TargetsKey).Public().(ed25519.PublicKey)
	for name, c := range map[string]struct {
		rot  Rotation
		ring Keyring
		want string
	}{
		"role":           {Rotation{Role: "all"}, s.opts.Keys, `role "all": no such role`},
		"no root key":    {Rotation{Role: RoleOnline, Add: []ed25519.PublicKey{fresh}}, s.opts.Keys.without(s.key(RootKey)), "sign root metadata: 0 of 1 keys at hand"},
		"other root":     {Rotation{Role: RoleOnline, Add: []ed25519.PublicKey{fresh}}, other.opts.Keys, ErrWrongKey.Error()},
		"lost root":      {Rotation{Role: RoleRoot, Add: []ed25519.PublicKey{fresh}, Remove: []string{idOf(s.key(RootKey))}}, s.opts.Keys.without(s.key(RootKey)), "sign root metadata: 0 of 1 keys at hand"},
		"two roles":      {Rotation{Role: RoleOnline, Add: []ed25519.PublicKey{s.key(TargetsKey).Public().(ed25519.PublicKey)}}, s.opts.Keys, "is a key of targets already"},
		"not its key":    {Rotation{Role: RoleOnline, Remove: []string{idOf(s.key(TargetsKey))}}, s.opts.Keys, "has not this role"},
		"none left":      {Rotation{Role: RoleOnline, Remove: []string{idOf(s.key(OnlineKey))}}, s.opts.Keys, "1 signatures would be wanted, of 0 keys"},
		"new key absent": {Rotation{Role: RoleTargets, Add: []ed25519.PublicKey{stranger}, Threshold: 2}, s.opts.Keys, "sign targets metadata: 1 of 2 keys at hand"},
	} {
		before := snapshotDir(t, s.dir)
		opts := s.opts
		opts.Keys = c.ring
		if _, err := r.Rotate(t.Context(), c.rot, opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Rotate = %v, want %q in it", name, err, c.want)
		}
		if snapshotDir(t, s.dir) != before {
			t.Errorf("%s: a refused rotation changed the repository", name)
		}
	}
}

// TestRenewRoot signs the root anew in time, if its key is there.
func TestRenewRoot(t *testing.T) {
	s := newSite(t)
	s.publish(s.slot("1"))
	r := &Repository{store: &folder{dir: s.dir}}
	s.now = start.Add(RootLifetime - 10*24*time.Hour)
	online := s.opts
	online.Keys = s.opts.Keys.without(s.key(RootKey))
	if p, err := r.Refresh(t.Context(), online); err != nil || p.Versions.Root != 1 {
		t.Errorf("Refresh without the root key = %+v, %v; want root 1", p, err)
	}
	p, err := r.Refresh(t.Context(), s.opts)
	if err != nil || p.Versions.Root != 2 || !p.Root.Equal(s.now.Add(RootLifetime)) {
		t.Errorf("Refresh with the root key = %+v, %v; want root 2, good for a year", p, err)
	}
	s.now = s.now.Add(5 * 24 * time.Hour)
	if got, err := s.look(s.client(s.serve(nil))); got != "1" || err != nil {
		t.Errorf("device sees %q, %v", got, err)
	}
}
