package registry

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// ErrSealed says that a record does not open: it was sealed for another chip,
// realm, type or generation, or changed since.
var ErrSealed = errors.New("the sealed record does not open")

// sealKeySize is the length of an A256GCM key, in bytes.
const sealKeySize = 32

// Seal encrypts a record for whoever knows the chip ID. The entry has realm,
// type (register or supersede) and generation set; Seal sets its record id and
// sealed record. The nonce is read from rand, so that two calls give two
// different entries: keep the bytes before sending them anywhere.
//
// One chip ID, realm and generation give one key. It meets a handful of
// nonces in its life, where AES-GCM allows 2^32 random ones (NIST SP 800-38D
// §8.3).
func Seal(rand io.Reader, chip identity.ChipID, e Entry, r Record) (Entry, error) {
	if chip.IsZero() {
		return Entry{}, fmt.Errorf("seal record: there is no chip ID")
	}
	e.Record, e.Sealed, e.Statement = chip.RecordID(), nil, nil
	if err := e.checkHead(); err != nil {
		return Entry{}, fmt.Errorf("seal record: %w", err)
	}
	if !e.Type.HasRecord() {
		return Entry{}, fmt.Errorf("seal record: a %s entry carries no record", e.Type)
	}
	plaintext, err := r.Encode()
	if err != nil {
		return Entry{}, fmt.Errorf("seal record: %w", err)
	}
	aead, err := sealCipher(chip, e)
	if err != nil {
		return Entry{}, fmt.Errorf("seal record: %w", err)
	}
	var s keypackage.Sealed
	if _, err := io.ReadFull(rand, s.Nonce[:]); err != nil {
		return Entry{}, fmt.Errorf("seal record: nonce: %w", err)
	}
	s.Ciphertext = aead.Seal(nil, s.Nonce[:], plaintext, keypackage.SealedAAD(e.sealContext()))
	e.Sealed = s.Encode()
	if _, err := e.Encode(); err != nil {
		return Entry{}, fmt.Errorf("seal record: %w", err)
	}
	return e, nil
}

// Open decrypts the record of a register or supersede entry. It matches
// ErrSealed where the entry is not this chip's. Who opened a record has yet to
// check its certificate; Client.Lookup does both.
func Open(chip identity.ChipID, e Entry) (Record, error) {
	if !e.Type.HasRecord() {
		return Record{}, fmt.Errorf("open record: a %s entry carries no record", e.Type)
	}
	if chip.IsZero() || chip.RecordID() != e.Record {
		return Record{}, fmt.Errorf("open record %s: %w: it is another chip's", e.Record.Short(), ErrSealed)
	}
	s, err := keypackage.ParseSealed(e.Sealed, MaxEntry)
	if err != nil {
		return Record{}, fmt.Errorf("open record %s: %w: %w", e.Record.Short(), ErrSealed, err)
	}
	aead, err := sealCipher(chip, e)
	if err != nil {
		return Record{}, fmt.Errorf("open record %s: %w", e.Record.Short(), err)
	}
	plaintext, err := aead.Open(nil, s.Nonce[:], s.Ciphertext, keypackage.SealedAAD(e.sealContext()))
	if err != nil {
		return Record{}, fmt.Errorf("open record %s: %w: it was sealed for another realm, type or generation, or changed", e.Record.Short(), ErrSealed)
	}
	r, err := ParseRecord(plaintext)
	if err != nil {
		return Record{}, fmt.Errorf("open record %s: %w", e.Record.Short(), err)
	}
	return r, nil
}

// sealContext is the external associated data of the sealed record: a record
// can't be moved under another head.
func (e Entry) sealContext() []byte {
	return detcbor.Array(entryVersion, e.Realm, e.Type, e.Record[:], e.Generation)
}

// sealCipher derives the record's key: HKDF-SHA-256 (RFC 5869) of the chip ID,
// without salt, since a chip ID is at least 128 random bits.
func sealCipher(chip identity.ChipID, e Entry) (cipher.AEAD, error) {
	info := detcbor.Array("dk-record-seal", 1, e.Realm, e.Generation)
	key, err := hkdf.Key(sha256.New, chip.Bytes(), nil, string(info), sealKeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
