package station

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// Journal keeps, for each device in work, what a station that lost its power
// needs to go on: one file a device, in one folder. A file is named by the
// device's record id, since a board may come back in another fixture. Nothing
// in it is secret: certificate and backup are public by design, opened by the
// chip alone.
type Journal struct{ dir string }

// page is a device's file: written after the SPP accepted the backup and
// before the flash is erased, removed when the device ships.
type page struct {
	Record      identity.RecordID `json:"record"`
	Generation  uint32            `json:"generation"`
	Device      string            `json:"device,omitempty"` // the fixture's name of it, for people
	Since       time.Time         `json:"since,omitzero"`
	Certificate []byte            `json:"certificate"`
	Backup      []byte            `json:"backup"`
	Challenge   []byte            `json:"challenge"`
}

// maxPage bounds a page that is read, in bytes: a package in base64 and
// little else.
const maxPage = 256 << 10

// OpenJournal opens the journal in folder dir and makes it where it is missing.
func OpenJournal(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the station's journal: %w", err)
	}
	// A loss of power must not take the new folder with the pages in it.
	if err := syncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, fmt.Errorf("open the station's journal: %w", err)
	}
	return &Journal{dir}, nil
}

// pageSuffix ends the name of a page's file.
const pageSuffix = ".json"

func (j *Journal) file(r identity.RecordID) string {
	return filepath.Join(j.dir, r.String()+pageSuffix)
}

// trialName is the file of check.
const trialName = ".trial"

// check tells whether the journal takes a page: a folder that is full or read
// only shall be known before a device is touched. A crash in it leaves a file
// that the next check replaces.
func (j *Journal) check() error {
	name := filepath.Join(j.dir, trialName)
	if err := writeFile(name, make([]byte, maxPage)); err != nil {
		_ = os.Remove(name) // whatever is left of it: the error counts
		return j.unwritable(err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // another station's check may have
		return j.unwritable(err)
	}
	return nil
}

func (j *Journal) unwritable(err error) error {
	return &undecided{ErrJournal, err.Error(), fmt.Sprintf("see that %s is on a disk that has room and may be written by this station, then run it again; no flash was erased", j.dir)}
}

// write makes a device's page durable. A crash before the rename leaves no
// page, or the earlier one, and a stray temporary file that the next write
// replaces; the flash is still whole then. A crash after it leaves the page,
// and the next run restores from it. Its error matches ErrJournal.
func (j *Journal) write(p page) error {
	b, err := json.Marshal(p)
	if err == nil && len(b) > maxPage {
		err = fmt.Errorf("it has %d bytes, at most %d are read back", len(b), maxPage)
	}
	name := j.file(p.Record)
	if err == nil {
		err = writeFile(name+".new", b)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = syncDir(j.dir)
	}
	if err != nil {
		_ = os.Remove(name + ".new") // it may be what fills the disk; the error counts
		return j.unwritable(fmt.Errorf("page of record %s: %w", p.Record.Short(), err))
	}
	return nil
}

func writeFile(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// read gives a device's page; ok is false where there is none. An error is a
// page that nobody can go on with: torn, another device's, unreadable.
func (j *Journal) read(r identity.RecordID) (p page, ok bool, err error) {
	name := j.file(r)
	b, err := readPage(name)
	if errors.Is(err, fs.ErrNotExist) {
		return p, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err == nil && p.Record != r {
		err = fmt.Errorf("it is of record %s: was a file renamed?", p.Record.Short())
	}
	if err != nil {
		return page{}, false, fmt.Errorf("read the journal's page %q: %w", name, err)
	}
	return p, true, nil
}

func readPage(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	if err == nil && len(b) > maxPage {
		err = fmt.Errorf("it is longer than %d bytes", maxPage)
	}
	return b, err
}

// maxBad bounds how many bad pages of one device are kept beside each other:
// more of them are a disk to be replaced.
const maxBad = 100

// setAside moves a bad page out of the way, to a name that is free: people may
// want to look at it. A crash leaves it under one name or the other.
func (j *Journal) setAside(r identity.RecordID) (name string, err error) {
	for n := 1; n <= maxBad; n++ {
		name = j.file(r) + ".bad"
		if n > 1 {
			name += fmt.Sprintf("-%d", n)
		}
		if _, err := os.Lstat(name); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", j.unwritable(err)
		}
		if err := os.Rename(j.file(r), name); err != nil {
			return "", j.unwritable(err)
		}
		if err := syncDir(j.dir); err != nil {
			return "", j.unwritable(err)
		}
		return name, nil
	}
	return "", j.unwritable(fmt.Errorf("%d bad pages of record %s lie there already", maxBad, r.Short()))
}

// remove drops a shipped device's page. A crash before it leaves a page of a
// shipped device, which the next run removes.
func (j *Journal) remove(r identity.RecordID) error {
	if err := os.Remove(j.file(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the journal's page of record %s: %w", r.Short(), err)
	}
	return nil
}

// Tidy removes the page of a device that shipped at another station, unless
// a line wrote another page meanwhile.
func (j *Journal) Tidy(e Entry) error {
	if p, ok, err := j.read(e.Record); err != nil || !ok || p.Generation != e.Generation {
		return err
	}
	return j.remove(e.Record)
}

// Entry is a device that stands in the journal.
type Entry struct {
	Record     identity.RecordID
	Generation uint32
	Device     string    // the fixture that it was last in
	Since      time.Time // when its page was written
	Err        error     // why its page does not read; then Record alone holds
}

// Entries lists the devices in the journal, the oldest first. Pages that were
// set aside are not among them.
func (j *Journal) Entries() ([]Entry, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("list the station's journal: %w", err)
	}
	var all []Entry
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), pageSuffix)
		if !ok {
			continue
		}
		r, err := identity.ParseRecordID(name)
		if err != nil {
			continue // nothing of the journal's
		}
		p, ok, err := j.read(r)
		if err == nil && !ok {
			continue // shipped meanwhile
		}
		if p.Since.IsZero() {
			if info, err := f.Info(); err == nil {
				p.Since = info.ModTime()
			}
		}
		all = append(all, Entry{Record: r, Generation: p.Generation, Device: p.Device, Since: p.Since, Err: err})
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.Since.Compare(b.Since) })
	return all, nil
}

// syncDir makes what was made or renamed in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
