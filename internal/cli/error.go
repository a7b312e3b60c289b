package cli

import (
	"errors"
	"fmt"
	"strings"
)

// Code is an exit status. The numbers are an interface: scripts and units rely on them.
type Code int

// Exit codes of all our programs, as docs/exit-codes.md explains them.
const (
	OK          Code = 0
	Failure     Code = 1   // any error without a code of its own
	Usage       Code = 2   // the command line is wrong
	Nothing     Code = 3   // nothing to do, no update available
	Refused     Code = 4   // refused by policy: older, expired, wrong class, failed before
	Locked      Code = 5   // another run holds the lock
	Unverified  Code = 6   // a signature, hash or hash tree does not verify
	Unreachable Code = 7   // network or server not reachable
	Available   Code = 10  // --check found an update: neither success nor an error
	Degraded    Code = 11  // there is no registry to work with
	NotStarted  Code = 125 // a flake was not started: what is less is its application's
	Interrupted Code = 130 // ended by a signal
)

// String returns the short name that docs/exit-codes.md uses.
func (c Code) String() string {
	switch c {
	case OK:
		return "ok"
	case Failure:
		return "error"
	case Usage:
		return "usage"
	case Nothing:
		return "nothing to do"
	case Refused:
		return "refused"
	case Locked:
		return "locked"
	case Unverified:
		return "verification failed"
	case Unreachable:
		return "unreachable"
	case Available:
		return "update available"
	case Degraded:
		return "degraded"
	case NotStarted:
		return "not started"
	case Interrupted:
		return "interrupted"
	}
	return fmt.Sprintf("code %d", int(c))
}

// Error is an error with an exit code and, where there is something the caller can do
// about it, a hint. With a nil Err only the exit status is left: nothing is printed.
type Error struct {
	Code Code
	Err  error
	Hint string
}

// Error returns the text of e.Err, or the code's name when there is none.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Code.String()
	}
	return e.Err.Error()
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Refuse attaches an exit code and a hint (which may be empty) to err.
func Refuse(code Code, err error, hint string) error {
	return &Error{Code: code, Err: err, Hint: hint}
}

// Exit ends the program with code and prints nothing. Exit(OK) is nil.
func Exit(code Code) error {
	if code == OK {
		return nil
	}
	return &Error{Code: code}
}

// Usagef is an error in the command line.
func Usagef(format string, a ...any) error {
	return &Error{Code: Usage, Err: fmt.Errorf(format, a...)}
}

// A Switch is an option of a program that has several actions, each an option.
type Switch struct {
	On   bool
	Name string
	With string // names of the actions it goes with, with blanks between; not for actions
}

// Action returns the name of the one action that is on; all of them joined by " and --" where there are more,
// and nothing where there is none.
func Action(actions []Switch) string {
	var names []string
	for _, a := range actions {
		if a.On {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, " and --")
}

// Consistent refuses two actions at once, and options that mean nothing with the action.
func Consistent(program, action string, options []Switch) error {
	hint := program + " --help lists the options"
	if strings.Contains(action, " ") {
		return Refuse(Usage, fmt.Errorf("--%s cannot be combined", action), hint)
	}
	for _, o := range options {
		if o.On && !strings.Contains(" "+o.With+" ", " "+action+" ") {
			return Refuse(Usage, fmt.Errorf("--%s does not go with --%s", o.Name, action), hint)
		}
	}
	return nil
}

// codeOf returns the exit code of err: that of the outermost *Error in its tree.
func codeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) && e.Code != OK {
		return e.Code
	}
	return Failure
}

// hintOf returns the hint of err: that of an *Error in its tree, else that of any error in
// it that has a method Hint() string, by which leaf packages give hints without importing
// this one.
func hintOf(err error) string {
	for next := err; next != nil; {
		var e *Error
		if !errors.As(next, &e) {
			break
		}
		if e.Hint != "" {
			return e.Hint
		}
		next = e.Err
	}
	var h interface {
		error
		Hint() string
	}
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// silent reports whether err only carries an exit code.
func silent(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Err == nil
}
