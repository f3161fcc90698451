package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// Bounds of the file: a key's blob has some 250 bytes, a secret's up to
// transport.MaxSecretBlob, in base64 a third more.
const (
	maxKeyLine  = 8192
	maxKeyLines = 1_000_000
)

// keyFile is a file of keys from outside (docs/formats.md, section 17).
type keyFile struct {
	lines []keyLine // at least one, each identity and entry once
	hash  [sha256.Size]byte
}

// keyLine is one line of the file.
type keyLine struct {
	n            int
	id           identity.Identity
	entry        profile.Entry
	public, blob []byte
	batch        int64 // of the identity, once that was looked up
}

// readKeyFile reads the whole file, once, before anything is imported: a line that is wrong refuses it. What is hashed
// are the bytes that are read.
func readKeyFile(path string, p profile.Profile) (keyFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return keyFile{}, err
	}
	defer f.Close() // opened for reading: nothing to lose
	sum := sha256.New()
	entries := map[string]profile.Entry{}
	for _, e := range p.Entries {
		if e.Source == profile.Imported {
			entries[e.Name] = e
		}
	}
	var lines []keyLine
	seen := map[string]int{}
	scan := bufio.NewScanner(io.TeeReader(f, sum))
	scan.Buffer(make([]byte, 0, maxKeyLine), maxKeyLine)
	for n := 1; scan.Scan(); n++ {
		text := strings.TrimSpace(scan.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		l, err := parseKeyLine(text, p, entries)
		if err == nil && len(lines) == maxKeyLines {
			err = fmt.Errorf("more than %d keys: split the file", maxKeyLines)
		}
		if err == nil {
			name := l.id.Value() + " " + l.entry.Name
			if before, twice := seen[name]; twice {
				err = fmt.Errorf("the key of %s, entry %q, stands in line %d already", l.id, l.entry.Name, before)
			}
			seen[name] = n
		}
		if err != nil {
			return keyFile{}, refusal(fmt.Errorf("%q, line %d: %w", path, n, err), "keys", "have the sender correct the file: nothing was imported")
		}
		l.n = n
		lines = append(lines, l)
	}
	if err := scan.Err(); err != nil {
		return keyFile{}, refusal(fmt.Errorf("%q: %w", path, err), "keys", "look whether it is the right file")
	}
	if len(lines) == 0 {
		return keyFile{}, refusal(fmt.Errorf("%q holds no key", path), "keys", "look whether it is the right file")
	}
	return keyFile{lines, [sha256.Size]byte(sum.Sum(nil))}, nil
}

func parseKeyLine(text string, p profile.Profile, entries map[string]profile.Entry) (l keyLine, err error) {
	fields := strings.Split(text, ",")
	if len(fields) != 4 {
		return l, fmt.Errorf("%d fields: identity, entry, public key and blob are expected", len(fields))
	}
	if l.id, err = identity.Parse(p.Identity, strings.TrimSpace(fields[0])); err != nil {
		return l, err
	}
	name := strings.TrimSpace(fields[1])
	var ok bool
	if l.entry, ok = entries[name]; !ok {
		return l, fmt.Errorf("the profile of line %q has no entry %q of source imported", p.Name, name)
	}
	if l.public, err = base64.StdEncoding.DecodeString(strings.TrimSpace(fields[2])); err != nil {
		return l, fmt.Errorf("public key: %w", err)
	}
	if l.blob, err = base64.StdEncoding.DecodeString(strings.TrimSpace(fields[3])); err != nil {
		return l, fmt.Errorf("blob: %w", err)
	}
	switch pair := l.entry.Algorithm.Pair(); {
	case pair && len(l.public) == 0:
		return l, fmt.Errorf("entry %q is a key pair: give its public half, 65 bytes", name)
	case !pair && len(l.public) != 0:
		return l, fmt.Errorf("entry %q is no key pair: leave the public half empty", name)
	}
	return l, checkBlob(l)
}

// checkBlob looks whether a line's blob has the form of what its entry is.
func checkBlob(l keyLine) error {
	_, notSecret := keypackage.ParseTransportSecret(l.blob)
	_, notKey := transport.ReadLabel(l.blob)
	switch secret := l.entry.WaitingSecret(); {
	case secret && notKey == nil:
		return fmt.Errorf("the blob is a wrapped key, and entry %q is a secret that is no key", l.entry.Name)
	case secret:
		return notSecret
	case notSecret == nil:
		return fmt.Errorf("the blob is a secret that is no key, and entry %q is a key", l.entry.Name)
	}
	return notKey
}
