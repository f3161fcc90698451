package chip

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	softwareVersion = 1
	softwareMode    = 0o600
	softwareMax     = 4096 // bytes of a state file; it has about 200
)

// softwareState is all that a software chip is, as its file has it.
type softwareState struct {
	_           struct{} `cbor:",toarray"`
	Version     uint
	Realm       identity.Realm
	ChipID      []byte
	ChipKey     []byte
	Attestation []byte // P-256 scalar
	ROMKey      []byte // point; empty before it was written
	Locked      bool
	Floor       identity.Generation
}

func (s softwareState) check() error {
	if s.Version != softwareVersion || s.Realm != identity.Development || len(s.ChipKey) != 32 {
		return fmt.Errorf("state of version %d, realm %s is not known", s.Version, s.Realm)
	}
	if _, err := identity.ParseChipID(s.ChipID); err != nil {
		return err
	}
	_, err := s.romKey()
	return err
}

func (s softwareState) romKey() (statement.PublicKey, error) {
	if len(s.ROMKey) == 0 {
		return statement.PublicKey{}, nil
	}
	k, err := statement.ParsePoint(s.ROMKey)
	if err != nil {
		return statement.PublicKey{}, fmt.Errorf("read ROM key: %w", err)
	}
	return k, nil
}

func readSoftwareState(path string) (softwareState, error) {
	f, err := os.Open(path)
	if err != nil {
		return softwareState{}, fmt.Errorf("open software chip: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, softwareMax+1))
	if err != nil {
		return softwareState{}, fmt.Errorf("open software chip: %w", err)
	}
	return parseSoftwareState(b)
}

func parseSoftwareState(b []byte) (softwareState, error) {
	var s softwareState
	if err := detcbor.Unmarshal(b, &s, softwareMax); err != nil {
		return s, fmt.Errorf("open software chip: %w", err)
	}
	if err := s.check(); err != nil {
		return s, fmt.Errorf("open software chip: %w", err)
	}
	return s, nil
}

// create makes the chip's file; an existing one is never overwritten. A crash
// leaves a file that OpenSoftware refuses, to be removed by hand.
func (s softwareState) create(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, softwareMode)
	if err != nil {
		return fmt.Errorf("make software chip: %w", err)
	}
	_, err = f.Write(detcbor.Must(s))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make software chip: %w", err)
	}
	return nil
}

// write replaces the chip's file. A crash leaves the old content or the new
// one, and perhaps a file path + ".new", which the next write replaces.
func (s softwareState) write(path string) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, softwareMode)
	if err != nil {
		return fmt.Errorf("write software chip: %w", err)
	}
	_, err = f.Write(detcbor.Must(s))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write software chip: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("write software chip: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write software chip: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
