package fleetimage_test

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/crypto/ssh"

	"github.com/OSInside/eos/internal/flake"
	"github.com/OSInside/eos/internal/fleet"
	"github.com/OSInside/eos/internal/fleet/fleetimage"
	"github.com/OSInside/eos/internal/registrystate"
)

// testKey is for tests and known to everybody.
func testKey(t *testing.T) *fleet.Key {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "")
	if err != nil {
		t.Fatal(err)
	}
	k, err := fleet.ParseKey(pem.EncodeToMemory(block))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestImage(t *testing.T) {
	k := testKey(t)
	for _, c := range []struct {
		key  *fleet.Key
		want []string
	}{
		{nil, []string{"fleet 755 program"}},
		{k, []string{"fleet 755 program", "etc 755 ", "etc/fleet 755 ", "etc/fleet/id_fleet 400 " + string(k.Private())}},
	} {
		img, err := fleetimage.Image("amd64", []byte("program"), c.key)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v, want 1", len(layers), err)
		}
		if err := validate.Layer(layers[0]); err != nil {
			t.Errorf("the layer is not valid: %v", err)
		}
		again, err := fleetimage.Image("amd64", []byte("program"), c.key)
		if err != nil {
			t.Fatal(err)
		}
		first, err1 := img.Digest()
		second, err2 := again.Digest()
		if err := errors.Join(err1, err2); err != nil || first != second {
			t.Errorf("digests %s and %s, %v, want the same", first, second, err)
		}
		config, err := img.ConfigFile()
		if err != nil || config.Architecture != "amd64" || config.OS != "linux" || !config.Created.IsZero() || config.Config.Entrypoint[0] != "/fleet" {
			t.Errorf("configuration %+v, %v", config, err)
		}
		r := mutate.Extract(img)
		defer r.Close()
		var got []string
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			var data bytes.Buffer
			if _, err := io.Copy(&data, tr); err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
				t.Errorf("%s belongs to %d:%d, of %s", h.Name, h.Uid, h.Gid, h.ModTime)
			}
			got = append(got, fmt.Sprintf("%s %o %s", h.Name, h.Mode, data.String()))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	}
}

// The registration is one that the pilot reads, and starts without a registry also.
func TestRegistration(t *testing.T) {
	text, err := fleetimage.Registration(true)
	if err != nil {
		t.Fatal(err)
	}
	r, err := flake.Parse(fleetimage.Flake, []flake.File{{Path: "fleet.yaml", Text: text}})
	if err != nil {
		t.Fatal(err)
	}
	r.Shipped = true
	if got := flake.StateFolder(r); got != fleet.StateDir {
		t.Errorf("StateFolder = %q, want %q", got, fleet.StateDir)
	}
	for _, ok := range []bool{true, false} {
		l, err := flake.Decide(r, &flake.Call{Args: []string{"--getkey"}}, flake.Situation{Registry: registrystate.State{OK: ok}, Getenv: os.Getenv, Random: "1"})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(l.Run("localhost/fleet"), " ")
		const want = "/usr/bin/podman --root /run/eos/flakes/storage --runroot /run/eos/flakes/run --storage-driver overlay " +
			"--storage-opt additionalimagestore=/usr/lib/eos/containers --events-backend none run --rm --pull=never --label eos.flake=fleet --name flake.fleet_.1 --init --init-path=/usr/bin/tini-static --log-driver=passthrough --read-only --cgroups disabled --network host --cap-drop all " +
			"--security-opt no-new-privileges --volume /run:/run --volume /run/eos:/run/eos:ro " +
			"--volume /var/lib/eos/fleet:/var/lib/eos/fleet --volume /etc/machine-id:/etc/machine-id:ro " +
			"--volume /usr/lib/os-release:/etc/os-release:ro --volume /usr/share/eos/build.json:/usr/share/eos/build.json:ro " +
			"--volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro --entrypoint /fleet localhost/fleet --getkey"
		if diff := cmp.Diff(strings.Fields(want), strings.Fields(got)); diff != "" {
			t.Errorf("with a registry %v (-want +got):\n%s", ok, diff)
		}
	}
	without, err := fleetimage.Registration(false)
	if err != nil || bytes.Contains(without, []byte(fleetimage.Authorities)) {
		t.Errorf("Registration without authorities = %s, %v", without, err)
	}
}
