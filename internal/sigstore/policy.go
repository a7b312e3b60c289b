package sigstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Policy returns a policy.json that accepts images of a scope, a registry or a path in one,
// if the key in the file keyPath has signed them. All else stays as base, another policy.json,
// has it.
func Policy(base []byte, scope, keyPath string) ([]byte, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(base, &all); err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if all == nil {
		return nil, errors.New("read policy: it is empty")
	}
	transports := map[string]map[string]json.RawMessage{}
	if text := all["transports"]; text != nil {
		if err := json.Unmarshal(text, &transports); err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
	}
	rule, err := json.Marshal([]struct {
		Type string `json:"type"`
		Key  string `json:"keyPath"`
	}{{"sigstoreSigned", keyPath}})
	if err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	if transports["docker"] == nil {
		transports["docker"] = map[string]json.RawMessage{}
	}
	transports["docker"][scope] = rule
	if all["transports"], err = json.Marshal(transports); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(all); err != nil {
		return nil, fmt.Errorf("write policy: %w", err)
	}
	return b.Bytes(), nil
}

// Attachments returns a file for registries.d that has podman look for signatures beside the
// images of a scope.
func Attachments(scope string) ([]byte, error) {
	type use struct {
		Attachments bool `yaml:"use-sigstore-attachments"`
	}
	text, err := yaml.Marshal(map[string]map[string]use{"docker": {scope: {true}}})
	if err != nil {
		return nil, fmt.Errorf("write registries.d: %w", err)
	}
	return text, nil
}
