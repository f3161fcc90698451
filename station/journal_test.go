package station_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/untested"
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

// TestJournalBadPage: a page that does not read is said so, with its file;
// nothing is guessed, and nothing lost by moving it aside.
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
			for n, want := range []string{file + ".bad", file + ".bad-2", file + ".bad-3"} {
				bad := append(bytes.Clone(content), strings.Repeat(" ", n)...)
				must(t, os.WriteFile(file, bad, 0o600))
				_, ok, err := j.Read(p.Record)
				if ok || err == nil || !strings.Contains(err.Error(), file) {
					t.Errorf("got %v, %v", ok, err)
				}
				entries, err := j.Entries()
				if err != nil || len(entries) != 1 || entries[0].Record != p.Record || entries[0].Err == nil {
					t.Errorf("entries %+v, %v", entries, err)
				}
				moved, err := j.SetAside(p.Record)
				if err != nil || moved != want {
					t.Errorf("moved to %q, %v, want %q", moved, err, want)
				}
				if kept, err := os.ReadFile(want); err != nil || !bytes.Equal(kept, bad) {
					t.Errorf("kept %q, %v", kept, err)
				}
				if _, ok, err := j.Read(p.Record); ok || err != nil {
					t.Errorf("moved aside, it reads %v, %v", ok, err)
				}
			}
			if entries, err := j.Entries(); err != nil || len(entries) != 0 {
				t.Errorf("pages aside are entries: %+v, %v", entries, err)
			}
		})
	}
	j, dir := newJournal(t)
	p.Backup = make([]byte, station.MaxPage)
	if err := j.Write(p); !errors.Is(err, station.ErrJournal) || len(files(t, dir)) != 0 {
		t.Errorf("a page that could not be read back was written: %v", err)
	}
}

// TestJournalBadPages: bad pages of one device do not pile up for ever.
func TestJournalBadPages(t *testing.T) {
	t.Parallel()
	j, dir := newJournal(t)
	r := somePage(1).Record
	file := filepath.Join(dir, r.String()+".json")
	for n := range 101 {
		must(t, os.WriteFile(file, []byte("torn"), 0o600))
		if _, err := j.SetAside(r); (err == nil) != (n < 100) || err != nil && !errors.Is(err, station.ErrJournal) {
			t.Fatalf("page %d: %v", n, err)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the page that could not be moved is gone: %v", err)
	}
}

// TestJournalEntries: the oldest first; what is no page is none.
func TestJournalEntries(t *testing.T) {
	t.Parallel()
	j, dir := newJournal(t)
	old, fresh, undated := somePage(1), somePage(2), somePage(3)
	old.Since, fresh.Since = time.Unix(1_000_000, 0).UTC(), time.Unix(2_000_000, 0).UTC()
	old.Device = "device-0001"
	for _, p := range []station.Page{undated, fresh, old} {
		must(t, j.Write(p))
	}
	for _, name := range []string{"notes.txt", "x.json", old.Record.String() + ".json.new", ".trial"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	have, err := j.Entries()
	must(t, err)
	if len(have) != 3 || have[2].Since.IsZero() {
		t.Fatalf("%+v", have)
	}
	have[2].Since = time.Time{} // its file's, as an earlier version wrote it
	want := []station.Entry{
		{Record: old.Record, Generation: 3, Device: "device-0001", Since: old.Since},
		{Record: fresh.Record, Generation: 3, Since: fresh.Since},
		{Record: undated.Record, Generation: 3},
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("entries (-want +have):\n%s", diff)
	}
}

// TestJournalUnwritable: a folder that takes no page is noticed by the check
// and by each write, with what to do, and what is there stays.
func TestJournalUnwritable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(t *testing.T) (dir string){
		// As root, mode bits stop nobody: there a folder in the file's place does.
		"no file can be made": func(t *testing.T) string {
			dir := filepath.Join(t.TempDir(), "journal")
			must(t, os.MkdirAll(filepath.Join(dir, somePage(1).Record.String()+".json.new"), 0o700))
			must(t, os.MkdirAll(filepath.Join(dir, ".trial"), 0o700))
			if os.Geteuid() != 0 {
				must(t, os.Chmod(dir, 0o500))
				t.Cleanup(func() { must(t, os.Chmod(dir, 0o700)) })
			}
			return dir
		},
		"disk full": smallDisk,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := c(t)
			j, err := station.OpenJournal(dir)
			must(t, err)
			for act, err := range map[string]error{"check": j.Check(), "write": j.Write(somePage(1))} {
				var next interface{ Next() string }
				if !errors.Is(err, station.ErrJournal) || !errors.As(err, &next) || !strings.Contains(next.Next(), dir) || !strings.Contains(next.Next(), "no flash was erased") {
					t.Errorf("%s: %v", act, err)
				}
				if !station.StopsLine(err) {
					t.Errorf("%s: the line goes on", act)
				}
			}
			if entries, err := j.Entries(); err != nil || len(entries) != 0 {
				t.Errorf("left: %+v, %v", entries, err)
			}
		})
	}
}

// smallDisk gives a folder on a file system that is full.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k,mode=0700"); err != nil {
		untested.Except(t, "a full disk under the journal: mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	f, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return dir
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
