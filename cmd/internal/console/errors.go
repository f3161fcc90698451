package console

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// errShown ends a run that has already shown what it was asked for (help, version).
var errShown = errors.New("shown")

// usageError is a command line or configuration that can't work: exit code 2.
type usageError struct {
	err  error
	next string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Next() string  { return e.next }
func (e *usageError) usage()        {}

// Usagef makes an error that ends the program with code 2: the caller must change the command line or the
// configuration before the same command can succeed.
func Usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

type hintedError struct {
	error
	next string
}

func (e *hintedError) Unwrap() error { return e.error }
func (e *hintedError) Next() string  { return e.next }

// Hint adds the next step that is printed below the error, such as the command that makes what is missing. It
// returns nil for a nil error.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintedError{error: err, next: fmt.Sprintf(format, args...)}
}

// printError writes the error as the package comment promises. The outermost next step wins, since it is the one
// that knows the whole command.
func printError(w io.Writer, name string, err error) {
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		fmt.Fprintf(w, "%s: %s\n", name, printable(line))
	}
	var next interface{ Next() string }
	if errors.As(err, &next) && next.Next() != "" {
		fmt.Fprintf(w, "next: %s\n", printable(next.Next()))
	}
}

// exitCode sorts an error into the exit codes. An error that carries its own refusal, from however deep, is one.
func exitCode(err error) int {
	var refused interface{ Refused() string }
	var usage interface{ usage() }
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &refused):
		return ExitRefused
	case errors.As(err, &usage):
		return ExitUsage
	default:
		return ExitFailed
	}
}
