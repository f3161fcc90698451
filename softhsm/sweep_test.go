package softhsm_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/google/go-cmp/cmp"
)

// The sizes of token.object between the steps in which SoftHSM 2.6 writes it: nothing, the generation, with the label,
// the serial number, the flags; then the security officer's PIN makes it whole.
var steps = []int64{0, 8, 64, 104, 128}

const whole = 224

// tokenFile is the token.object of a token of the directory.
func tokenFile(t *testing.T, d *softhsm.Directory) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(d.Path(), "tokens", "*", "token.object"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no token: %v", err)
	}
	return files[0]
}

// plant lays a token beside the others that is cut off at size bytes, and more files with it.
func plant(t *testing.T, d *softhsm.Directory, content []byte, name string, more ...string) string {
	t.Helper()
	folder := filepath.Join(d.Path(), "tokens", name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range append(more, "token.object", "token.lock", "generation") {
		text := content
		if f != "token.object" {
			text = nil
		}
		if err := os.WriteFile(filepath.Join(folder, f), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestSweep(t *testing.T) {
	t.Parallel()
	d := softhsm.New(t).NewDirectory(t)
	token := d.Token(t, "whole")
	file := tokenFile(t, d)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// The slot's number comes from the serial number, and SoftHSM aborts where two are the same.
	numbered := func(serial string, size int64) []byte {
		return bytes.Replace(content[:size], []byte(token.Serial), []byte(serial), 1)
	}
	var removed, kept []string
	for _, n := range steps {
		removed = append(removed, plant(t, d, content[:n], string(rune('a'+len(removed)))))
	}
	empty := filepath.Join(d.Path(), "tokens", "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	removed = append(removed, empty)
	kept = append(kept, filepath.Dir(file),
		plant(t, d, numbered("0123456789abcde1", whole), "without user PIN"), // which InitToken finishes
		plant(t, d, numbered("0123456789abcde2", 104), "with a key", "3d4b2a1c-0000-0000-0000-000000000000.object"),
		plant(t, d, numbered("0123456789abcde3", 104), "with something else", "README"),
		plant(t, d, append(content[:8:8], bytes.Repeat([]byte{7}, 64)...), "of another form"))
	for _, want := range [][]string{removed, nil} { // the second time there is nothing
		got, err := softhsm.SweepDirectory(d)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("removed (-want +got):\n%s", diff)
		}
	}
	for _, folder := range removed {
		if _, err := os.Stat(folder); !os.IsNotExist(err) {
			t.Errorf("%q is there: %v", folder, err)
		}
	}
	for _, folder := range kept {
		if _, err := os.Stat(filepath.Join(folder, "token.object")); err != nil {
			t.Error(err)
		}
	}
	if out := show(t, d); !strings.Contains(out, token.Serial) {
		t.Errorf("the whole token is gone:\n%s", out)
	}
}

// What somebody is making just now is left alone, lock file or not.
func TestSweepBesideMaking(t *testing.T) {
	t.Parallel()
	d := softhsm.New(t).NewDirectory(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, label := range []string{"one", "two", "three"} {
			d.Token(t, label)
		}
	}()
	for going := true; going; {
		select {
		case <-done:
			going = false
		default:
		}
		if removed, err := softhsm.SweepDirectory(d); err != nil || len(removed) > 0 {
			t.Errorf("removed %v, %v", removed, err)
		}
	}
	if n := strings.Count(show(t, d), "Initialized:      yes"); n != 3 {
		t.Errorf("%d tokens", n)
	}
}

func TestSweepNowhere(t *testing.T) {
	t.Parallel()
	d := softhsm.New(t).NewDirectory(t)
	for name, conf := range map[string]string{
		"no directories.tokendir": "# directories.tokendir = /nowhere\nobjectstore.backend = file\n",
		"no such file":            "directories.tokendir = " + filepath.Join(d.Path(), "nowhere") + "\n",
		"more than":               strings.Repeat("# a long comment\n", 10_000),
	} {
		if err := os.WriteFile(d.Conf(), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		if removed, err := softhsm.SweepDirectory(d); err == nil || !strings.Contains(err.Error(), name) || len(removed) > 0 {
			t.Errorf("%s: removed %v, %v", name, removed, err)
		}
	}
	if removed, err := softhsm.Sweep(""); err != nil || len(removed) > 0 {
		t.Errorf("without a lock file: removed %v, %v", removed, err)
	}
}

// attribute is one of a token.object.
func attribute(kind, number uint64, value []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, number)
	b = binary.BigEndian.AppendUint64(b, kind)
	if kind == 3 {
		b = binary.BigEndian.AppendUint64(b, uint64(len(value)))
	}
	return append(b, value...)
}

// A file that counts as finished counts so whatever is written after it; and no prefix of a finished one that stops
// before the PIN does, unless SoftHSM doesn't write such files.
func FuzzFinished(f *testing.F) {
	const soPIN = 0x8000534C
	label := attribute(3, 0x80005349, []byte("a label"))
	flags := attribute(2, 0x8000534B, make([]byte, 8))
	pin := attribute(3, soPIN, make([]byte, 72))
	generation := make([]byte, 8)
	f.Add([]byte(nil))
	f.Add(generation)
	f.Add(bytes.Join([][]byte{generation, label}, nil))
	f.Add(bytes.Join([][]byte{generation, label, flags}, nil))
	f.Add(bytes.Join([][]byte{generation, label, flags, pin}, nil))
	f.Add(bytes.Join([][]byte{generation, attribute(1, 1, []byte{1}), pin[:40]}, nil))
	f.Add(bytes.Join([][]byte{generation, attribute(9, 1, nil)}, nil))
	f.Add(bytes.Join([][]byte{generation, binary.BigEndian.AppendUint64(attribute(3, 1, nil)[:16:16], 1<<63)}, nil))
	f.Fuzz(func(t *testing.T, file []byte) {
		if !softhsm.Finished(file) {
			return
		}
		if !softhsm.Finished(append(file[:len(file):len(file)], 0)) {
			t.Errorf("%x is finished, and with a byte more is not", file)
		}
		if len(file) < 24 || softhsm.Finished(file[:8]) {
			t.Errorf("%x is finished", file)
		}
	})
}
