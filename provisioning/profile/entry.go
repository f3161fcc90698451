package profile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// Source says where the value of an entry comes from.
type Source string

// The sources.
const (
	Derived Source = "derived" // a function of master key, identity, chip and generation; never outside a token in clear
	Drawn   Source = "drawn"   // random, from the HSM, one for each device
	File    Source = "file"    // from a file that a licensor gave
	Value   Source = "value"   // text in the profile

	Made     Source = "made"     // a key that the HSM makes while the device is on the line
	Pool     Source = "pool"     // a key or a secret that was made in advance and waits with its identity
	Imported Source = "imported" // a key or a secret from outside that waits with its identity
)

// Waits reports whether a key of that source lies wrapped until its device
// takes it (keypackage.WaitingKey).
func (s Source) Waits() bool { return s == Made || s.InPool() }

// InPool reports whether the value is in the identity pool before its device comes.
func (s Source) InPool() bool { return s == Pool || s == Imported }

// Entry is one line of a product line's packages.
type Entry struct {
	// Name is unique in the profile; for a derived key it is its purpose, and
	// the HSM needs a purpose key of that name (a ceremony makes it).
	Name      string               `yaml:"name"`
	Kind      keypackage.Kind      `yaml:"kind"`
	Algorithm keypackage.Algorithm `yaml:"algorithm"` // none where it is no key
	Source    Source               `yaml:"source"`
	// Size is the length of a secret that is drawn, on the line or in advance
	// (source pool): bytes, or digits with Digits. For a file or an imported
	// secret it is the length that it must have, in bytes; 0 for any.
	Size int `yaml:"size"`
	// Digits draws decimal digits, for a code that people type (SIM lock); an
	// imported secret must be such a code.
	Digits bool `yaml:"digits"`
	// File is the secret's file, mode 0400, taken as it is, to the last byte.
	// "{identity}" in it stands for the device's identity in canonical form
	// (an IMEI without its check digit): one file for each device.
	File string `yaml:"file"`
	// Clear puts the value into the manifest, for everyone to read.
	Clear bool `yaml:"clear"`
	// Value is a clear entry's value.
	Value string `yaml:"value"`
	// Certificate has the device CA certify a pair's public half.
	Certificate bool `yaml:"certificate"`
}

// WaitingKey reports whether the value is a key that lies wrapped until its device
// takes it (keypackage.WaitingKey).
func (e Entry) WaitingKey() bool { return e.Source.Waits() && e.Algorithm != keypackage.None }

// WaitingSecret reports whether the value is a secret that is no key, and waits in
// the identity pool.
func (e Entry) WaitingSecret() bool { return e.Source.InPool() && e.Algorithm == keypackage.None }

// CheckSecret tells what is wrong with a secret that waits, or comes from outside to
// wait: another length than the profile's, no digits where it says so, or a key that
// waits (the entry was one's before). No error repeats a byte of it.
func (e Entry) CheckSecret(value []byte) error {
	_, err := keypackage.ParseWaitingKey(value)
	switch {
	case len(value) == 0 || len(value) > keypackage.MaxSecret:
		return fmt.Errorf("it has %d bytes, 1 to %d are allowed", len(value), keypackage.MaxSecret)
	case e.Size != 0 && len(value) != e.Size:
		return fmt.Errorf("it has %d bytes, the profile says %d", len(value), e.Size)
	case e.Digits && (len(value) < minDigits || len(value) > maxDigits || !decimal(value)):
		return fmt.Errorf("it is no code of %d to %d decimal digits, as the profile says", minDigits, maxDigits)
	case err == nil:
		return fmt.Errorf("it is a key that waits, and the profile says algorithm none")
	}
	return nil
}

func decimal(value []byte) bool {
	for _, c := range value {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// identityMark is replaced in the path of an entry's file.
const identityMark = "{identity}"

// Secret reads the value of an entry of source file for one device. The
// caller clears the bytes after use.
func (e Entry) Secret(id identity.Identity) ([]byte, error) {
	// The canonical text of every identity is letters, digits, '-' and '.',
	// and begins with a letter or digit: it can't leave the folder.
	path := strings.ReplaceAll(e.File, identityMark, id.Value())
	b, err := e.read(path)
	if err != nil {
		return nil, fmt.Errorf("read entry %q of %s: %w", e.Name, id, err)
	}
	return b, nil
}

func (e Entry) read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: put the licensor's file there", err)
	}
	defer f.Close() // opened for reading: nothing to lose
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%q is not a regular file", path)
	case !e.Clear && info.Mode().Perm()&0o377 != 0:
		return nil, fmt.Errorf("%q has mode %04o: it holds a secret, set it to 0400", path, info.Mode().Perm())
	}
	b, err := readAll(f, path, keypackage.MaxSecret)
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0:
		return nil, fmt.Errorf("%q is empty", path)
	case e.Size != 0 && len(b) != e.Size:
		clear(b)
		return nil, fmt.Errorf("%q has %d bytes, the profile says %d: look for a missing or added newline", path, len(b), e.Size)
	}
	return b, nil
}

// checkFile looks, when a profile is loaded, whether devices will find their
// secrets: the line's file by reading it, a file for each device by its folder.
func (e Entry) checkFile() error {
	if e.Source != File {
		return nil
	}
	if before, _, each := strings.Cut(e.File, identityMark); each {
		folder := before
		if !strings.HasSuffix(folder, "/") {
			folder = filepath.Dir(before)
		}
		info, err := os.Stat(folder)
		if err != nil {
			return fmt.Errorf("%w: put the licensor's files there", err)
		}
		if !info.IsDir() {
			return fmt.Errorf("%q is not a folder", folder)
		}
		return nil
	}
	b, err := e.read(e.File)
	clear(b)
	return err
}

func readAll(r io.Reader, path string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		clear(b)
		return nil, fmt.Errorf("%q is longer than %d bytes", path, limit)
	}
	return b, nil
}
