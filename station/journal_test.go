package station_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/station"
)

func somePage(first byte) station.Page {
	return station.Page{
		Record: identity.RecordID{first, 1, 2}, Generation: 3, Certificate: []byte("certificate"), Backup: []byte("backup"), Challenge: bytes.Repeat([]byte{9}, 32),
	}
}

func newJournal(t *testing.T) (*station.Journal, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deep", "journal")
	j, err := station.OpenJournal(dir)
	must(t, err)
	return j, dir
}

// files lists the journal's folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestJournal(t *testing.T) {
	t.Parallel()
	j, dir := newJournal(t)
	p, other := somePage(1), somePage(2)
	if _, ok, err := j.Read(p.Record); ok || err != nil {
		t.Errorf("an empty journal gives %v, %v", ok, err)
	}
	must(t, j.Remove(p.Record)) // nothing to remove is fine
	must(t, j.Write(p))
	must(t, j.Write(other))
	again := p
	again.Generation, again.Backup = 4, []byte("the next one")
	must(t, j.Write(again))
	for _, want := range []station.Page{again, other} {
		have, ok, err := j.Read(want.Record)
		if diff := cmp.Diff(want, have); !ok || err != nil || diff != "" {
			t.Errorf("read gives %v, %v (-want +have):\n%s", ok, err, diff)
		}
	}
	// Another one on the same folder, as after a restart.
	j, err := station.OpenJournal(dir)
	must(t, err)
	must(t, j.Remove(p.Record))
	if _, ok, err := j.Read(p.Record); ok || err != nil {
		t.Errorf("a removed page gives %v, %v", ok, err)
	}
	if diff := cmp.Diff([]string{other.Record.String() + ".json"}, files(t, dir)); diff != "" {
		t.Errorf("files (-want +have):\n%s", diff)
	}
	info, err := os.Stat(filepath.Join(dir, other.Record.String()+".json"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("a page has mode %o", info.Mode().Perm())
	}
}

// TestJournalCrash: what a crash in a write leaves, and that the next one mends it.
func TestJournalCrash(t *testing.T) {
	t.Parallel()
	old, fresh := somePage(1), somePage(1)
	fresh.Generation = 4
	whole, err := json.Marshal(fresh)
	must(t, err)
	for _, c := range []struct {
		name  string
		old   bool // a page was there before
		stray []byte
	}{
		{"no page, temporary file just made", false, []byte{}},
		{"no page, half of it written", false, whole[:len(whole)/2]},
		{"no page, all of it written, not renamed", false, whole},
		{"old page, half of the new one written", true, whole[:len(whole)/2]},
		{"old page, temporary file longer than the next", true, append(whole, whole...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j, dir := newJournal(t)
			if c.old {
				must(t, j.Write(old))
			}
			must(t, os.WriteFile(filepath.Join(dir, old.Record.String()+".json.new"), c.stray, 0o600))
			have, ok, err := j.Read(old.Record)
			if err != nil || ok != c.old || ok && cmp.Diff(old, have) != "" {
				t.Errorf("after the crash: %v, %v, %v", have, ok, err)
			}
			must(t, j.Write(fresh))
			have, ok, err = j.Read(fresh.Record)
			if diff := cmp.Diff(fresh, have); err != nil || !ok || diff != "" {
				t.Errorf("after the next write: %v, %v\n%s", ok, err, diff)
			}
			if n := files(t, dir); len(n) != 1 {
				t.Errorf("left: %q", n)
			}
		})
	}
}

// TestJournalBadPage: a page that does not read is said so, with its file and
// what to do; nothing is guessed.
func TestJournalBadPage(t *testing.T) {
	t.Parallel()
	p := somePage(1)
	whole, err := json.Marshal(p)
	must(t, err)
	other, err := json.Marshal(somePage(2))
	must(t, err)
	for name, content := range map[string][]byte{
		"empty":      {},
		"truncated":  whole[:len(whole)-10],
		"two pages":  append(append([]byte{}, whole...), whole...),
		"other":      other,
		"no record":  []byte("{}"),
		"not a page": []byte("\x00\x01"),
		"oversized":  append(append([]byte{}, whole...), bytes.Repeat([]byte{' '}, station.MaxPage)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, dir := newJournal(t)
			file := filepath.Join(dir, p.Record.String()+".json")
			must(t, os.WriteFile(file, content, 0o600))
			_, ok, err := j.Read(p.Record)
			if ok || err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("got %v, %v", ok, err)
			}
		})
	}
	j, dir := newJournal(t)
	p.Backup = make([]byte, station.MaxPage)
	if err := j.Write(p); err == nil || len(files(t, dir)) != 0 {
		t.Errorf("a page that could not be read back was written: %v", err)
	}
}

// TestOpenJournalRefused: a folder that can't be one.
func TestOpenJournalRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := station.OpenJournal(file); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// FuzzJournalPage: whatever is in a page's file, it reads as this record's page
// or is refused.
func FuzzJournalPage(f *testing.F) {
	p := somePage(1)
	whole, err := json.Marshal(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte("{}"))
	f.Add([]byte("null"))
	dir := f.TempDir()
	j, err := station.OpenJournal(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		must(t, os.WriteFile(filepath.Join(dir, p.Record.String()+".json"), content, 0o600))
		have, ok, err := j.Read(p.Record)
		if ok != (err == nil) || ok && have.Record != p.Record {
			t.Errorf("read gives %v, %v, %v", have, ok, err)
		}
	})
}
