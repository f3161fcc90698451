package main_test

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/softhsm/raw"
	"github.com/devicekeys/devicekeys/untested"
)

const (
	plantedToken = "planted"
	plantedSize  = 32
)

// plantedVariable is a variable of this program.
var plantedVariable [plantedSize]byte

// planted keeps what it reads: the first value in Go's heap, the second in a variable, the third in the module's heap.
func planted(module string, pin secret.Secret) (err error) {
	l, err := raw.Open(raw.Config{Module: module, Token: plantedToken, PIN: pin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	heap, passing := make([]byte, plantedSize), make([]byte, plantedSize)
	for _, b := range [][]byte{heap, plantedVariable[:], passing} {
		if _, err := io.ReadFull(os.Stdin, b); err != nil {
			return err
		}
	}
	err = l.Hold(passing)
	clear(passing)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(heap)
	return rest()
}

// The search of memory finds raw bytes wherever they lie in a process, and tells Go's heap and variables, which no control
// excuses, from C memory; what isn't there it doesn't find.
func TestMemorySearch(t *testing.T) {
	t.Parallel()
	d, err := softhsm.NewDirectory(filepath.Join(t.TempDir(), "hsm"))
	if errors.Is(err, softhsm.ErrNotInstalled) {
		untested.Skip(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, d.Token(t, plantedToken).PIN.Bytes(), 0o400); err != nil {
		t.Fatal(err)
	}
	h := &haystack{t: t}
	var say []byte
	for _, name := range []string{"in the heap", "in a variable", "in the module", "nowhere"} {
		key := make([]byte, plantedSize)
		if _, err := rand.Read(key); err != nil {
			t.Fatal(err)
		}
		h.needles = append(h.needles, newNeedle(name, key))
		if name != "nowhere" {
			say = append(say, key...)
		}
	}
	pid := child(t, "planted", d, pin, say)
	if err := h.memory("the child", pid); err != nil {
		t.Fatal(err)
	}
	have := map[string]map[place]bool{}
	for _, f := range h.found {
		if have[f.needle] == nil {
			have[f.needle] = map[place]bool{}
		}
		have[f.needle][f.place] = true
	}
	want := map[string]map[place]bool{"in the heap": {goHeap: true}, "in a variable": {programData: true}, "in the module": {cHeap: true}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("what was planted (-want +found)\n%s", diff)
	}
}
