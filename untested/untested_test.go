package untested_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/devicekeys/devicekeys/untested"
)

// recorder is a test that notes how it ends.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}
func (r *recorder) end(how, format string, args []any) {
	r.said = how + ": " + fmt.Sprintf(format, args...)
	if how != "log" {
		runtime.Goexit()
	}
}
func (r *recorder) Fatalf(format string, args ...any) { r.end("fail", format, args) }
func (r *recorder) Skipf(format string, args ...any)  { r.end("skip", format, args) }
func (r *recorder) Logf(format string, args ...any)   { r.end("log", format, args) }

// How a test ends, by what CI is.
func TestEnds(t *testing.T) {
	for ci, forbidden := range map[string]bool{
		"": false, "0": false, "f": false, "false": false, "False": false, "fAlSe": false,
		"1": true, "true": true, "TRUE": true, "yes": true, "drone": true,
	} {
		t.Setenv(untested.Variable, ci)
		if untested.Forbidden() != forbidden {
			t.Errorf("CI=%s: %v", ci, !forbidden)
		}
		skip := "skip: not tested: a thing, 7"
		if forbidden {
			skip = "fail: not tested: a thing, 7; CI is set, which allows no skipping"
		}
		for want, f := range map[string]func(testing.TB, string, ...any){
			skip: untested.Skip, "skip: not tested: a thing, 7 ": untested.Except, "log: not tested: a thing, 7": untested.Part,
		} {
			format := "a thing, %d"
			if want[len(want)-1] == ' ' {
				format += " " // the two may say the same otherwise
			}
			r, done := &recorder{}, make(chan struct{})
			go func() {
				defer close(done)
				f(r, format, 7)
			}()
			<-done
			if r.said != want {
				t.Errorf("CI=%s: %q, not %q", ci, r.said, want)
			}
		}
	}
}
