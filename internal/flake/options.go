package flake

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Options are podman's options of a registration, as words, for one call.
type Options struct {
	Words    []string // without what is said of standard streams
	Input    bool     // standard input is the application's
	Terminal bool     // it has a terminal, where the caller has one
}

// podmanOptions reads those of the registration.
func podmanOptions(r *Registration, c *Call, s Situation) (Options, error) {
	given := r.Container.Runtime.Podman
	if len(given) == 0 {
		given = []string{"--interactive", "--tty"}
	}
	var out Options
	for _, o := range given {
		words := split(o)
		for i, w := range words {
			var err error
			if words[i], err = expand(w, s.getenv); err != nil {
				return Options{}, fmt.Errorf("start flake %s: option %q: %w", r.Name, o, err)
			}
		}
		if host := volumeHost(words); host != "" && c.IgnoreMissingVolume && !s.Exists(host) {
			continue
		}
		if len(words) == 1 {
			words = out.streams(words[0])
		}
		out.Words = append(out.Words, words...)
	}
	return out, nil
}

// cluster is a word of options without values, of those there are in podman run.
var cluster = regexp.MustCompile(`^-[diPqt]+$`)

// streams takes what is said of standard streams out of an option.
func (o *Options) streams(word string) []string {
	switch word {
	case "--interactive", "--interactive=true":
		o.Input = true
		return nil
	case "--tty", "--tty=true":
		o.Terminal = true
		return nil
	}
	if !cluster.MatchString(word) {
		return []string{word}
	}
	o.Input = o.Input || strings.Contains(word, "i")
	o.Terminal = o.Terminal || strings.Contains(word, "t")
	if rest := strings.NewReplacer("i", "", "t", "").Replace(word); rest != "-" {
		return []string{rest}
	}
	return nil
}

// Has tells whether one of the options is given, by its long name or its letter.
func (o *Options) Has(names ...string) bool {
	return slices.ContainsFunc(o.Words, func(w string) bool {
		name, _, _ := strings.Cut(w, "=")
		return slices.Contains(names, name) || cluster.MatchString(w) && slices.ContainsFunc(names, func(n string) bool {
			return len(n) == 2 && strings.Contains(w[1:], n[1:])
		})
	})
}

// value returns that of an option which is given with its long name; the last one counts.
func (o *Options) value(name string) (value string) {
	for i, w := range o.Words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			value = v
		} else if w == name && i+1 < len(o.Words) {
			value = o.Words[i+1]
		}
	}
	return value
}

// split makes words of an option: it is split once, at its first blank.
func split(o string) []string {
	if name, rest, two := strings.Cut(o, " "); two {
		return []string{name, rest}
	}
	return []string{o}
}

var variable = regexp.MustCompile(`%[A-Z]+`)

// expand puts the environment in the place of %NAME, once: what a variable holds is not
// looked at again. A variable that is not set is left to be seen, as $NAME.
func expand(s string, getenv func(string) (string, error)) (string, error) {
	var refused error
	out := variable.ReplaceAllStringFunc(s, func(v string) string {
		text, err := getenv(v[1:])
		switch {
		case err != nil:
			refused = err
		case text != "":
			return text
		}
		return "$" + v[1:]
	})
	if strings.ContainsRune(out, 0) {
		return "", errors.New("it has a zero byte in it")
	}
	return out, refused
}

// foreign are the variables that a caller may set for a flake which has more rights than he,
// with what they may hold: nothing that is a path, or another option.
var foreign = map[string]*regexp.Regexp{
	"TERM": plainWord, "COLORTERM": plainWord, "LANG": plainWord, "LANGUAGE": plainWord, "TZ": plainWord,
	"USER": plainWord, "LOGNAME": plainWord, "DISPLAY": regexp.MustCompile(`^:[0-9]+(\.[0-9]+)?$`),
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@+-]*$`)

// getenv is the environment for options: the caller's, if the flake has no more rights than he.
// Else it is that of the user it runs as, and of the caller's what [foreign] lets through.
func (s *Situation) getenv(name string) (string, error) {
	text := s.Getenv(name)
	if s.Own || text == "" {
		return text, nil
	}
	if name == "HOME" {
		return s.Home, nil
	}
	if may := foreign[name]; may == nil || !may.MatchString(text) {
		return "", fmt.Errorf("%%%s: the caller may not set it for a flake of another user", name)
	}
	return text, nil
}

// volumeHost returns the path on the host of an option for a volume; empty if it is none.
func volumeHost(words []string) string {
	name, value, ok := strings.Cut(words[0], "=")
	if len(words) == 2 {
		name, value, ok = words[0], words[1], true
	}
	host, _, _ := strings.Cut(value, ":")
	if !ok || name != "--volume" && name != "-v" || !path.IsAbs(host) {
		return ""
	}
	return host
}

// StateFolder returns the folder on the host where a shipped flake keeps its state, which
// the pilot makes if need be; empty if it has none. It is the volume that has the flake's
// own name below [StateDir].
func StateFolder(r *Registration) string {
	if !r.Shipped {
		return ""
	}
	for _, o := range r.Container.Runtime.Podman {
		if host := volumeHost(split(o)); host == path.Join(StateDir, r.Name) {
			return host
		}
	}
	return ""
}
