package station

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/identity"
)

// Journal keeps, for each device in work, what a station that lost its power
// needs to go on: one file a device, in one folder. A file is named by the
// device's record id, since a board may come back in another fixture. Nothing
// in it is secret: certificate and backup are public by design, opened by the
// chip alone.
type Journal struct{ dir string }

// page is a device's file. It is written once, after the SPP accepted the
// backup and before the flash is erased.
type page struct {
	Record      identity.RecordID `json:"record"`
	Generation  uint32            `json:"generation"`
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

func (j *Journal) file(r identity.RecordID) string { return filepath.Join(j.dir, r.String()+".json") }

// write makes a device's page durable. A crash before the rename leaves no
// page, or the earlier one, and a stray temporary file that the next write
// replaces; the flash is still whole then. A crash after it leaves the page,
// and the next run restores from it.
func (j *Journal) write(p page) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write the journal's page of record %s: %w", p.Record.Short(), err)
		}
	}()
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if len(b) > maxPage {
		return fmt.Errorf("it has %d bytes, at most %d are read back", len(b), maxPage)
	}
	tmp := j.file(p.Record) + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp, j.file(p.Record)); err != nil {
		return err
	}
	return syncDir(j.dir)
}

// read gives a device's page; ok is false where there is none.
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
		return page{}, false, fmt.Errorf("read the journal's page %q: %w: move it away and run the station again; a device whose flash is whole needs no page", name, err)
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

// remove drops a shipped device's page. A crash before it leaves a page of a
// shipped device, which the next run removes.
func (j *Journal) remove(r identity.RecordID) error {
	if err := os.Remove(j.file(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the journal's page of record %s: %w", r.Short(), err)
	}
	return nil
}

// syncDir makes what was made or renamed in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
