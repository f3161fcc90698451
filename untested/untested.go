// Package untested is how a test says that it could not do its work here: every
// skip of this module's tests goes through it. A skip is seen by nobody, since go
// test prints "ok" all the same; so what this package says begins with one phrase,
// and `make test` ends with a list of it (cmd/internal/gotest).
//
// There are three cases. What is missing can be installed: [Skip], which on a CI
// machine is a failure, as there everything is installed. The machine or the run can't do it
// at all, for want of root, of a kernel, of data that aren't in the tree: [Except],
// on a CI machine too. And a test that has done its work but for a part: [Part].
package untested

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// Mark begins what is said of something that was not tested.
const Mark = "not tested: "

// Variable is the environment variable by which CI servers say what they are.
const Variable = "CI"

// Forbidden tells whether this is a CI machine, where what is missing is a failure:
// CI is set, and to something else than "0" or a spelling of "false".
func Forbidden() bool { return forbidden(os.Getenv(Variable)) }

func forbidden(ci string) bool {
	no, err := strconv.ParseBool(strings.ToLower(ci))
	return ci != "" && (no || err != nil)
}

// Skip ends a test for want of something that can be installed: skipped, and failed
// on a CI machine. Say what was not tested, why, and what to install.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if Forbidden() {
		t.Fatalf(Mark+format+"; "+Variable+" is set, which allows no skipping", args...)
	}
	t.Skipf(Mark+format, args...)
}

// Except skips a test that can't run on a machine or in a run like this, on a CI machine
// too. Say what was not tested, why, and where it would be.
func Except(t testing.TB, format string, args ...any) {
	t.Helper()
	t.Skipf(Mark+format, args...)
}

// Part says that the test, which goes on, leaves out a part.
func Part(t testing.TB, format string, args ...any) {
	t.Helper()
	t.Logf(Mark+format, args...)
}
