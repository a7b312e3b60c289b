package flake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a part of a registration that remembers where it was written.
type value struct {
	file   string
	line   int
	kind   kind
	text   string // of a scalar
	tag    string // of a scalar: !!str, !!bool, ...
	list   []*value
	keys   []string // of a mapping, in their order
	fields map[string]*value
}

type kind int

const (
	null kind = iota // an empty value: says nothing
	scalar
	list
	mapping
)

// maxDepth bounds how deep values lie in each other; a registration needs four.
const maxDepth = 16

func (v *value) errorf(format string, a ...any) error {
	return fmt.Errorf("%s:%d: "+format, append([]any{v.file, v.line}, a...)...)
}

// parseFile reads one file. An empty one is null.
func parseFile(file string, text []byte) (*value, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return &value{file: file, line: 1}, nil
	} else if err != nil {
		return nil, syntaxError(file, err)
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, syntaxError(file, err)
		}
		return nil, fmt.Errorf("%s:%d: a second document, want one a file", file, more.Line)
	}
	if len(doc.Content) == 0 {
		return &value{file: file, line: 1}, nil
	}
	return convert(file, doc.Content[0], 0)
}

// syntaxError brings an error of the parser into the form file:line: what.
func syntaxError(file string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if line, what, ok := strings.Cut(rest, ": "); ok {
			return fmt.Errorf("%s:%s: %s", file, line, what)
		}
	}
	return fmt.Errorf("%s:1: %s", file, text)
}

func convert(file string, n *yaml.Node, depth int) (*value, error) {
	v := &value{file: file, line: n.Line}
	switch {
	case depth > maxDepth:
		return nil, v.errorf("more than %d values in each other", maxDepth)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return nil, v.errorf("anchors and aliases are not supported")
	case n.Style&yaml.TaggedStyle != 0:
		return nil, v.errorf("tag %s is not supported", n.Tag)
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if v.tag = n.ShortTag(); v.tag != "!!null" {
			v.kind, v.text = scalar, n.Value
		}
	case yaml.SequenceNode:
		v.kind = list
		for _, c := range n.Content {
			e, err := convert(file, c, depth+1)
			if err != nil {
				return nil, err
			}
			v.list = append(v.list, e)
		}
	case yaml.MappingNode:
		v.kind, v.fields = mapping, map[string]*value{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, err := convert(file, n.Content[i], depth+1)
			if err != nil {
				return nil, err
			}
			if k.kind != scalar || k.tag != "!!str" {
				return nil, k.errorf("a key has to be a word")
			}
			if first := v.fields[k.text]; first != nil {
				return nil, k.errorf("%s: given twice, first in line %d", k.text, first.line)
			}
			e, err := convert(file, n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			v.keys, v.fields[k.text] = append(v.keys, k.text), e
		}
	}
	return v, nil
}

// merge lays over upon v and returns the result; neither is changed.
func merge(v, over *value) *value {
	switch {
	case over.kind == null:
		return v
	case v.kind != mapping || over.kind != mapping:
		return over
	}
	out := *v
	out.keys, out.fields = slices.Clone(v.keys), map[string]*value{}
	for _, k := range v.keys {
		out.fields[k] = v.fields[k]
	}
	for _, k := range over.keys {
		if have := out.fields[k]; have != nil {
			out.fields[k] = merge(have, over.fields[k])
			continue
		}
		out.keys, out.fields[k] = append(out.keys, k), over.fields[k]
	}
	return &out
}
