package profile

import (
	"bytes"
	"crypto/ecdh"
	"fmt"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// maxPayload bounds manifest and secrets of one device together, in bytes: a
// backup of that size and its framing stay below keypackage.MaxPackage, and
// below the registry's limit of 64 KiB - 1 for an entry.
const maxPayload = 60 << 10

// A code has at least minDigits, or it is guessed, and at most maxDigits: longer
// ones nobody types.
const (
	minDigits = 4
	maxDigits = 64
)

func (p Profile) check() error {
	if !namePattern.MatchString(p.Name) {
		return fmt.Errorf("name %q: give the product line 1 to 32 lower-case letters, digits or '-'", p.Name)
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("profile %q: "+format, append([]any{p.Name}, args...)...)
	}
	switch {
	case p.Identity == 0:
		return fail("identity is missing: write imei, eui48, eui64 or serial")
	case p.ChipIDBytes != 16 && p.ChipIDBytes != 24 && p.ChipIDBytes != 32:
		return fail("chip_id_bytes is %d: write 16, 24 or 32, what the chip maker programs", p.ChipIDBytes)
	case p.MasterVersion == 0:
		return fail("master_version is missing: write the version of the master key, from 1")
	case p.KDF != 1 && p.KDF != 2:
		return fail("kdf is %d: write 1, or 2 where the master key of version %d is of KDF 2", p.KDF, p.MasterVersion)
	case len(p.Entries) == 0 || len(p.Entries) > keypackage.MaxEntries:
		return fail("%d entries: give 1 to %d", len(p.Entries), keypackage.MaxEntries)
	}
	for i, e := range p.Entries {
		if err := e.check(); err != nil {
			return fail("entry %d, %q: %w", i+1, e.Name, err)
		}
	}
	if err := p.checkCertificates(); err != nil {
		return fail("%w", err)
	}
	return p.checkShape()
}

func symmetric() []keypackage.Algorithm {
	return keypackage.Algorithms(keypackage.UseMAC, keypackage.UseCipher)
}

func pairs() []keypackage.Algorithm {
	return keypackage.Algorithms(keypackage.UseSignature, keypackage.UseAgreement)
}

func (e Entry) check() error {
	if e.Kind == 0 {
		return fmt.Errorf("kind is missing: write communication, drm, sim-lock or opaque")
	}
	switch e.Source {
	case Derived:
		if !e.Algorithm.Symmetric() {
			return fmt.Errorf("algorithm %s can't be derived: write %s, or another source", e.Algorithm, keypackage.Either(symmetric()))
		}
		if e.Size != 0 || e.Clear || e.Digits {
			return fmt.Errorf("a derived key has %d bytes and is secret: remove size, digits and clear", keypackage.SymmetricSize)
		}
	case Drawn:
		if err := e.checkDrawn(); err != nil {
			return err
		}
	case File:
		switch {
		case e.File == "":
			return fmt.Errorf("file is missing: name the licensor's file, or write another source")
		case e.Size < 0 || e.Size > keypackage.MaxSecret:
			return fmt.Errorf("size is %d bytes: write 1 to %d, or remove it", e.Size, keypackage.MaxSecret)
		}
	case Value:
		switch {
		case !e.Clear:
			return fmt.Errorf("a value in the profile is no secret: write clear: true, or source: file for a secret")
		case e.Value == "" || len(e.Value) > keypackage.MaxSecret:
			return fmt.Errorf("value has %d bytes: write 1 to %d", len(e.Value), keypackage.MaxSecret)
		case e.Size != 0:
			return fmt.Errorf("size belongs to secrets that are drawn, imported or from a file: remove it")
		}
	case Made, Pool, Imported:
		if err := e.checkWaits(); err != nil {
			return err
		}
	case "":
		return fmt.Errorf("source is missing: write derived, drawn, file, value, made, pool or imported")
	default:
		return fmt.Errorf("source %q is not known: write derived, drawn, file, value, made, pool or imported", e.Source)
	}
	switch {
	case e.Certificate && !e.Algorithm.Pair():
		return fmt.Errorf("only a key pair is certified: remove certificate, or write algorithm %s", keypackage.Either(pairs()))
	case e.Algorithm.Pair() && !e.Source.Waits():
		return fmt.Errorf("a key pair is made by an HSM: write source: made, pool or imported")
	case e.Algorithm.Symmetric() && e.Source != Derived && !e.Source.Waits():
		return fmt.Errorf("a symmetric key is derived, so that nobody has to keep it: write source: derived, or made, pool or imported, or algorithm: none for a secret that is no key")
	case e.File != "" && e.Source != File:
		return fmt.Errorf("file belongs to source file: remove it, or write source: file")
	case e.Value != "" && e.Source != Value:
		return fmt.Errorf("value belongs to source value: remove it, or write source: value")
	case e.Digits && e.Source != Drawn && !e.WaitingSecret():
		return fmt.Errorf("digits belongs to secrets of source drawn, pool or imported: remove it")
	}
	return nil
}

// checkDrawn checks the size of what the HSM draws, on the line or in advance.
func (e Entry) checkDrawn() error {
	switch {
	case e.Digits && (e.Size < minDigits || e.Size > maxDigits):
		return fmt.Errorf("size is %d digits: write %d to %d", e.Size, minDigits, maxDigits)
	case e.Size < 1 || e.Size > keypackage.MaxSecret:
		return fmt.Errorf("size is %d bytes: write 1 to %d, how many to draw", e.Size, keypackage.MaxSecret)
	}
	return nil
}

// checkWaits checks what was made, or waits in the pool: a key, or a secret that is
// none.
func (e Entry) checkWaits() error {
	switch {
	case e.WaitingSecret() && e.Clear:
		return fmt.Errorf("what waits in the pool is secret: remove clear, or write source: drawn, file or value")
	case e.WaitingSecret() && e.Source == Pool:
		return e.checkDrawn()
	case e.WaitingSecret() && e.Digits && e.Size != 0:
		return e.checkDrawn()
	case e.WaitingSecret() && (e.Size < 0 || e.Size > keypackage.MaxSecret):
		return fmt.Errorf("size is %d bytes: write 1 to %d, or remove it", e.Size, keypackage.MaxSecret)
	case e.WaitingSecret():
	case e.Algorithm == keypackage.None:
		return fmt.Errorf("source %s is for keys: write algorithm %s, or source: drawn or pool for a secret that is no key", e.Source, keypackage.Either(append(pairs(), symmetric()...)))
	case e.Size != 0 || e.Clear || e.Digits:
		return fmt.Errorf("a key's size is its algorithm's and it is secret: remove size, digits and clear")
	}
	return nil
}

// checkShape encodes a manifest of the profile's shape: what the formats
// refuse is refused here, by their own words.
func (p Profile) checkShape() error {
	chip, err := identity.ParseChipID(bytes.Repeat([]byte{1}, p.ChipIDBytes))
	if err != nil {
		return fmt.Errorf("profile %q: %w", p.Name, err)
	}
	m := keypackage.Manifest{Realm: identity.Development, Identity: sample(p.Identity), ChipID: chip, Generation: identity.MaxGeneration}
	secrets := 0
	for _, e := range p.Entries {
		entry := keypackage.Entry{Kind: e.Kind, Key: p.KeyID(e), Algorithm: e.Algorithm, Clear: e.Clear, Vouch: make([]byte, 32)}
		if e.Algorithm.Pair() {
			entry.Vouch = samplePoint(byte(len(m.Entries) + 1)) // no point stands twice
		}
		size := e.Size
		if size == 0 {
			size = keypackage.MaxSecret // a file of any length
		}
		switch {
		case e.Source == Value:
			entry.Vouch = []byte(e.Value)
		case e.Clear:
			entry.Vouch = make([]byte, size)
		case e.Certificate:
			secrets += devicecert.MaxCertificate // no secret, but it lies in the registry's record beside them
		case e.Source != Derived && !e.WaitingKey():
			const framing = 48 // its 32 random bytes and the heads of three CBOR items
			secrets += size + framing
		}
		m.Entries = append(m.Entries, entry)
	}
	encoded, err := m.Encode()
	if err != nil {
		return fmt.Errorf("profile %q: %w", p.Name, err)
	}
	if n := len(encoded) + secrets; n > maxPayload {
		return fmt.Errorf("profile %q: its packages could have %d bytes, %d are allowed: give sizes to files, or shorten values", p.Name, n, maxPayload)
	}
	// A device proves on the line that it holds its keys, with one of them.
	proving, ok := m.Proving()
	switch {
	case !ok:
		return fmt.Errorf("profile %q: no entry can authenticate the device: add one of kind communication, algorithm hmac-sha-256, source derived", p.Name)
	case !m.Entries[proving].Key.Derived():
		return fmt.Errorf("profile %q: entry %q would authenticate the device on the line, which a derived key does: put one of kind communication, source derived, before it",
			p.Name, m.Entries[proving].Key.Name)
	}
	return nil
}

// samplePoint gives a public key of the right shape: P-256's base point, n times.
func samplePoint(n byte) []byte {
	k, err := ecdh.P256().NewPrivateKey(append(make([]byte, 31), n))
	if err != nil {
		return nil // a curve without a base point; Manifest.Encode says so
	}
	return k.PublicKey().Bytes()
}

// sample gives the longest identity of a type.
func sample(t identity.Type) identity.Identity {
	text := map[identity.Type]string{
		identity.TypeIMEI:   "00440200000000",
		identity.TypeEUI48:  "020000000001",
		identity.TypeEUI64:  "0200000000000001",
		identity.TypeSerial: "4294967295-ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
	}[t]
	id, err := identity.FromValue(t, text)
	if err != nil {
		return nil // a type nobody knows; Manifest.Encode says so
	}
	return id
}
