// Package registrystate reads what flake-registry says about the registry, the writable
// partition: whether there is a place for what has to outlive this boot.
//
// [Load] is the one call. The file is the JSON of registry.Status, of which "state" and
// "problem" are looked at. A file that is not there, or cannot be read as that, is a registry
// that is not there: a caller who is told that it is may rely on it.
//
// It mounts nothing, waits for nothing and writes nothing, and unlike package registry it
// needs nothing that does.
package registrystate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// File is where flake-registry describes the registry. It is gone after each restart.
const File = "/run/eos/registry.json"

// maxFile bounds what is read of the file.
const maxFile = 64 << 10

// State is the registry of this boot.
type State struct {
	OK     bool
	Reason string // why it is not, for people
}

// Load reads the state of the registry.
func Load(path string) State {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{Reason: "it was not activated in this boot"}
	}
	if err != nil {
		return State{Reason: err.Error()}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return State{Reason: err.Error()}
	}
	return Parse(b)
}

// Parse reads the content of the file.
func Parse(b []byte) State {
	var v struct {
		State   string `json:"state"`
		Problem string `json:"problem"`
	}
	switch err := json.Unmarshal(b, &v); {
	case err != nil:
		return State{Reason: fmt.Sprintf("its state cannot be read: %v", err)}
	case v.State == "ok":
		return State{OK: true}
	case v.Problem != "":
		return State{Reason: v.Problem}
	}
	return State{Reason: fmt.Sprintf("its state is %q", v.State)}
}
