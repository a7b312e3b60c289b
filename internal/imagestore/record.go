package imagestore

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageRecord is an element of images.json.
type imageRecord struct {
	ID             string            `json:"id"`
	Digest         string            `json:"digest"`
	Names          []string          `json:"names"`
	Layer          string            `json:"layer,omitempty"`
	Metadata       string            `json:"metadata"`
	BigDataNames   []string          `json:"big-data-names"`
	BigDataSizes   map[string]int64  `json:"big-data-sizes"`
	BigDataDigests map[string]string `json:"big-data-digests"`
	Created        time.Time         `json:"created"`
}

// layerRecord is an element of layers.json.
type layerRecord struct {
	ID               string    `json:"id"`
	Parent           string    `json:"parent,omitempty"`
	Created          time.Time `json:"created"`
	CompressedDigest string    `json:"compressed-diff-digest"`
	CompressedSize   int64     `json:"compressed-size"`
	Digest           string    `json:"diff-digest"`
	Size             int64     `json:"diff-size"`
	Compression      int       `json:"compression,omitempty"`
	UIDs             []int     `json:"uidset"`
	GIDs             []int     `json:"gidset"`
}

// Values of layerRecord.Compression.
const (
	plain = 0
	gzip  = 2
	zstd  = 4
)

// meta is what an image says of itself.
type meta struct {
	manifest, config []byte
	diffs            []v1.Hash
	layers           []v1.Descriptor // of the manifest
}

func (m *meta) id() string     { return sum(m.config).Hex }
func (m *meta) digest() string { return sum(m.manifest).String() }

// readMeta reads manifest and configuration and checks that they fit together.
func readMeta(img v1.Image) (*meta, error) {
	var m meta
	var err error
	if m.manifest, err = img.RawManifest(); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if m.config, err = img.RawConfigFile(); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(m.manifest))
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(m.config))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if manifest.SchemaVersion != 2 {
		return nil, fmt.Errorf("read manifest: schema %d is not supported", manifest.SchemaVersion)
	}
	if have := sum(m.config); have != manifest.Config.Digest {
		return nil, fmt.Errorf("read configuration: its sum is %s, the manifest has %s", have, manifest.Config.Digest)
	}
	m.diffs, m.layers = config.RootFS.DiffIDs, manifest.Layers
	if len(m.diffs) != len(m.layers) {
		return nil, fmt.Errorf("read manifest: it has %d layers, the configuration %d", len(m.layers), len(m.diffs))
	}
	for _, d := range m.diffs {
		if d.Algorithm != "sha256" {
			return nil, fmt.Errorf("read configuration: layer %s has no SHA-256", d)
		}
	}
	return &m, nil
}

// record returns the record of an image on top of a layer, and its data by name.
func (m *meta) record(names []string, top *layer) (imageRecord, map[string][]byte) {
	data := map[string][]byte{
		sum(m.config).String():   m.config,
		"manifest":               m.manifest,
		"manifest-" + m.digest(): m.manifest,
		signaturesOf(m.manifest): nil,
	}
	r := imageRecord{
		ID: m.id(), Digest: m.digest(), Names: names, Created: epoch,
		Metadata:       fmt.Sprintf(`{"signatures-sizes":{"%s":[]}}`, m.digest()),
		BigDataNames:   slices.Sorted(maps.Keys(data)),
		BigDataSizes:   map[string]int64{},
		BigDataDigests: map[string]string{},
	}
	if top != nil {
		r.Layer = top.record.ID
	}
	for name, d := range data {
		r.BigDataSizes[name] = int64(len(d))
		r.BigDataDigests[name] = sum(d).String()
	}
	return r, data
}

// signaturesOf names the place of an image's signatures. It has none: what a build takes
// in is pinned by its digest.
func signaturesOf(manifest []byte) string { return "signature-" + sum(manifest).Hex }

// dataFile returns the file that data of an image is in: its name where that has only
// digits, small letters and dots, and else a coded one.
func dataFile(name string) string {
	if strings.Trim(name, ".0123456789abcdefghijklmnopqrstuvwxyz") == "" {
		return name
	}
	return "=" + base64.StdEncoding.EncodeToString([]byte(name))
}

// compression returns how a layer was packed where it came from.
func compression(d v1.Descriptor) (int, error) {
	switch d.MediaType {
	case types.OCILayer, types.DockerLayer, types.OCIRestrictedLayer, types.DockerForeignLayer:
		return gzip, nil
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer, types.OCIUncompressedRestrictedLayer:
		return plain, nil
	case types.OCILayerZStd:
		return zstd, nil
	}
	return 0, fmt.Errorf("media type %q is not that of a layer", d.MediaType)
}

// chainID is the id of a layer upon another, "" at the bottom.
func chainID(below string, diff v1.Hash) string {
	if below == "" {
		return diff.Hex
	}
	return sum([]byte(below + "+" + diff.Hex)).Hex
}

func sum(data []byte) v1.Hash {
	h := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h[:])}
}

// table returns records as podman writes them; none are an empty table.
func table[T any](records []T) []byte {
	if len(records) == 0 {
		return []byte("[]")
	}
	data, err := json.Marshal(records)
	if err != nil {
		// The records have no field that JSON cannot hold.
		panic(errors.Join(errors.New("imagestore: marshal records"), err))
	}
	return data
}
