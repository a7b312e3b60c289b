package bootstate

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// BlockSize is the size of the file: GRUB takes no other.
const BlockSize = 1024

// sectorSize is the largest write that is taken to happen as a whole.
const sectorSize = 512

const header = "# GRUB Environment Block\n"

// none stands for no slot. Every value that GRUB changes has one character, so
// that GRUB, which edits a variable in place, leaves exactly the bytes of Marshal.
const none = "-"

// Variables are the names in the block, in the order they are stored.
var Variables = [...]string{
	"default", "once", "booted",
	"a_status", "a_tries", "a_good",
	"b_status", "b_tries", "b_good",
}

func (s State) values() [len(Variables)]string {
	slot := func(x Slot) string {
		if x == None {
			return none
		}
		return string(x)
	}
	good := func(ss SlotState) string {
		if ss.Good {
			return "1"
		}
		return "0"
	}
	return [...]string{
		slot(s.Default), slot(s.Once), slot(s.Booted),
		string(s.A.Status), strconv.Itoa(s.A.Tries), good(s.A),
		string(s.B.Status), strconv.Itoa(s.B.Tries), good(s.B),
	}
}

// Marshal returns the block, exactly [BlockSize] bytes. It panics on a state that
// [State.Check] refuses: such a state is a bug of the caller and must not reach a disk.
func (s State) Marshal() []byte {
	if err := s.Check(); err != nil {
		panic("internal error: " + err.Error())
	}
	b := make([]byte, 0, BlockSize)
	b = append(b, header...)
	for i, v := range s.values() {
		b = append(b, Variables[i]...)
		b = append(b, '=')
		b = append(b, v...)
		b = append(b, '\n')
	}
	return append(b, bytes.Repeat([]byte{'#'}, BlockSize-len(b))...)
}

// Parse reads a block. It accepts exactly what [State.Marshal] writes: size,
// header, every variable once and in order, and nothing but # behind them.
func Parse(b []byte) (State, error) {
	if len(b) != BlockSize {
		return State{}, fmt.Errorf("parse boot state: %d bytes, want %d", len(b), BlockSize)
	}
	rest, ok := strings.CutPrefix(string(b), header)
	if !ok {
		return State{}, fmt.Errorf("parse boot state: no GRUB environment block header, begins with %q", b[:len(header)])
	}
	var values [len(Variables)]string
	var unknown []string
	next := 0
	for rest != "" && rest[0] != '#' {
		line, tail, ok := strings.Cut(rest, "\n")
		name, value, isVar := strings.Cut(line, "=")
		if !ok || !isVar {
			return State{}, fmt.Errorf("parse boot state: broken line %.40q", line)
		}
		rest = tail
		switch {
		case next < len(Variables) && name == Variables[next]:
			values[next] = value
			next++
		case known(name):
			return State{}, fmt.Errorf("parse boot state: variable %q is repeated or out of order", name)
		default:
			unknown = append(unknown, fmt.Sprintf("%.40q", name))
		}
	}
	if len(unknown) > 0 {
		return State{}, fmt.Errorf("parse boot state: unknown variables %s", strings.Join(unknown, ", "))
	}
	if next < len(Variables) {
		return State{}, fmt.Errorf("parse boot state: variable %q is missing", Variables[next])
	}
	if strings.Trim(rest, "#") != "" {
		return State{}, fmt.Errorf("parse boot state: padding is not all #")
	}
	return fromValues(values)
}

func known(name string) bool {
	for _, v := range Variables {
		if v == name {
			return true
		}
	}
	return false
}

func fromValues(values [len(Variables)]string) (State, error) {
	var s State
	for i, name := range Variables {
		v := values[i]
		ok := false
		switch _, field, _ := strings.Cut(name, "_"); field {
		case "status":
			ok = Status(v).Valid()
		case "tries":
			ok = len(v) == 1 && v[0] >= '0' && v[0] <= '0'+Tries
		case "good":
			ok = v == "0" || v == "1"
		default:
			ok = Slot(v).Valid() || (name != "default" && v == none)
		}
		if !ok {
			return State{}, fmt.Errorf("parse boot state: %s has the value %.40q", name, v)
		}
	}
	slot := func(v string) Slot {
		if v == none {
			return None
		}
		return Slot(v)
	}
	state := func(v []string) SlotState {
		return SlotState{Status: Status(v[0]), Tries: int(v[1][0] - '0'), Good: v[2] == "1"}
	}
	s.Default, s.Once, s.Booted = slot(values[0]), slot(values[1]), slot(values[2])
	s.A, s.B = state(values[3:6]), state(values[6:9])
	return s, nil
}
