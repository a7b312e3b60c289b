package imagespec

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder fills structs from YAML nodes, in place: what a node does not mention keeps its
// value. That is how a profile overrides the description. It remembers the line of every
// key it has seen.
type decoder struct {
	file      string
	container bool           // the file describes a container
	lines     map[string]int // by path: disk.esp, files[2].path
	problems  []*Problem
	decoded   int // how many of problems were there before check
}

// scalar is implemented by pointers to types with a text form of their own.
type scalar interface{ parseScalar(string) error }

func (d *decoder) problem(line int, key, fix, format string, a ...any) {
	d.problems = append(d.problems, &Problem{File: d.file, Line: line, Key: key, What: fmt.Sprintf(format, a...), Fix: fix})
}

// line returns where key stands: its own line, or that of the closest thing around it.
func (d *decoder) line(key string) int {
	for key != "" {
		if n, ok := d.lines[key]; ok {
			return n
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 1
}

// set reports whether the description mentions key.
func (d *decoder) set(key string) bool {
	_, ok := d.lines[key]
	return ok
}

// value decodes n into v. patch allows lists to be given as {add: [], remove: []}.
func (d *decoder) value(n *yaml.Node, key string, v reflect.Value, patch bool) {
	d.lines[key] = n.Line
	if !d.plain(n, key) {
		return
	}
	if s, ok := v.Addr().Interface().(scalar); ok {
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
			d.wrongType(n, key, v.Type())
		} else if err := s.parseScalar(n.Value); err != nil {
			d.problem(n.Line, key, "", "%v", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, key, v, patch)
	case reflect.Slice:
		d.list(n, key, v, patch)
	case reflect.String:
		// A version like 1.10 looks like a number and is taken as it is written.
		number := n.ShortTag() == "!!int" || n.ShortTag() == "!!float"
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && !(number && key == "version") {
			d.wrongType(n, key, v.Type())
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.wrongType(n, key, v.Type())
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			d.wrongType(n, key, v.Type())
			return
		}
		v.SetInt(int64(i))
	default:
		panic(fmt.Sprintf("imagespec: field %s has kind %s", key, v.Kind()))
	}
}

// plain refuses the parts of YAML that hide what a file says.
func (d *decoder) plain(n *yaml.Node, key string) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.problem(n.Line, key, "write the value out; profiles override parts of a description", "anchors and aliases are not supported")
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.problem(n.Line, key, "", "tag %s is not supported", n.Tag)
		return false
	}
	return true
}

func (d *decoder) mapping(n *yaml.Node, key string, v reflect.Value, patch bool) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return // "disk:" with nothing below it sets nothing
	}
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, key, v.Type())
		return
	}
	fields := fieldNames(v.Type())
	for name, value := range d.pairs(n, key) {
		i := slices.Index(fields, name)
		if i < 0 || name == "" {
			continue // reported by known
		}
		d.value(value, join2(key, name), v.Field(i), patch)
	}
	d.known(n, key, fields)
}

// pairs yields the keys and values of a mapping, once each, and reports bad keys.
func (d *decoder) pairs(n *yaml.Node, key string) func(func(string, *yaml.Node) bool) {
	return func(yield func(string, *yaml.Node) bool) {
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, value := n.Content[i], n.Content[i+1]
			if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" || !d.plain(k, key) {
				if k.Kind != yaml.AliasNode {
					d.problem(k.Line, key, "", "a key has to be a word")
				}
				continue
			}
			if at, seen := first[k.Value]; seen {
				d.problem(k.Line, join2(key, k.Value), "keep one of the two", "given twice, first in line %d", at)
				continue
			}
			first[k.Value] = k.Line
			if !yield(k.Value, value) {
				return
			}
		}
	}
}

// known reports keys of n that are not in names.
func (d *decoder) known(n *yaml.Node, key string, names []string) {
	names = slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" })
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" || slices.Contains(names, k.Value) {
			continue
		}
		fix := "known here: " + strings.Join(names, ", ")
		if near := closest(k.Value, names); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		d.problem(k.Line, join2(key, k.Value), fix, "unknown key")
	}
}

func (d *decoder) list(n *yaml.Node, key string, v reflect.Value, patch bool) {
	if patch && n.Kind == yaml.MappingNode {
		d.patch(n, key, v)
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrongType(n, key, v.Type())
		return
	}
	for k := range d.lines { // those of the list this one replaces
		if strings.HasPrefix(k, key+"[") {
			delete(d.lines, k)
		}
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, len(n.Content)))
	d.extend(n, key, v)
}

// extend appends the elements of n to v.
func (d *decoder) extend(n *yaml.Node, key string, v reflect.Value) {
	// The list may be shared with the defaults.
	v.Set(reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, v.Len()+len(n.Content)), v))
	for _, item := range n.Content {
		i := v.Len()
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		d.value(item, fmt.Sprintf("%s[%d]", key, i), v.Index(i), false)
	}
}

// patch changes a list as {remove: [], add: []} says, in this order.
func (d *decoder) patch(n *yaml.Node, key string, v reflect.Value) {
	names := []string{"add", "remove"}
	text := v.Type().Elem().Kind() == reflect.String
	if !text {
		names = names[:1]
	}
	parts := map[string]*yaml.Node{}
	for name, value := range d.pairs(n, key) {
		if !slices.Contains(names, name) || !d.plain(value, join2(key, name)) {
			continue
		}
		if value.Kind != yaml.SequenceNode {
			d.problem(value.Line, join2(key, name), "", "is %s, want a list", kindName(value))
			continue
		}
		parts[name] = value
	}
	d.known(n, key, names)
	if r := parts["remove"]; r != nil {
		d.remove(r, key, v)
	}
	if a := parts["add"]; a != nil {
		d.extend(a, key, v)
	}
}

// remove takes the strings of n out of the list v and keeps the lines of what stays.
func (d *decoder) remove(n *yaml.Node, key string, v reflect.Value) {
	kept := slices.Clone(v.Interface().([]string))
	var lines []int
	for i := range kept {
		lines = append(lines, d.line(fmt.Sprintf("%s[%d]", key, i)))
	}
	for _, item := range n.Content {
		at := join2(key, "remove")
		if !d.plain(item, at) {
			continue
		}
		if item.Kind != yaml.ScalarNode || item.ShortTag() != "!!str" {
			d.wrongType(item, at, reflect.TypeFor[string]())
			continue
		}
		i := slices.Index(kept, item.Value)
		if i < 0 {
			d.problem(item.Line, at, "", "%q is not in the list", item.Value)
			continue
		}
		kept = slices.Delete(kept, i, i+1)
		lines = slices.Delete(lines, i, i+1)
	}
	for i := range v.Len() {
		delete(d.lines, fmt.Sprintf("%s[%d]", key, i))
	}
	for i, line := range lines {
		d.lines[fmt.Sprintf("%s[%d]", key, i)] = line
	}
	v.Set(reflect.ValueOf(kept))
}

func (d *decoder) wrongType(n *yaml.Node, key string, t reflect.Type) {
	want, fix := "a mapping of keys", ""
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[scalar]()):
		want = "a " + strings.ToLower(t.Name())
	case t.Kind() == reflect.Slice:
		want, fix = "a list", "write it as [a, b] or with one '- ' line for each element"
	case t.Kind() == reflect.String:
		want = "text"
		if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
			fix = fmt.Sprintf("put it in quotes: %q", n.Value)
		}
	case t.Kind() == reflect.Bool:
		want, fix = "true or false", "yes, no, on and off are not accepted"
	case t.Kind() == reflect.Int:
		want = "a whole number"
	}
	d.problem(n.Line, key, fix, "is %s, want %s", kindName(n), want)
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "the truth value " + n.Value
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!timestamp":
		return "the date " + n.Value
	}
	return fmt.Sprintf("the text %q", n.Value)
}

// fieldNames returns the key of each field, "" for those without one.
func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("yaml")
		if tag == "-" {
			tag = ""
		}
		names = append(names, tag)
	}
	return names
}

func join2(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
