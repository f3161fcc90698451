// Package registrytest makes entries for tests: of chips that exist only in
// memory, with certificates and statements signed by software keys that are the
// same in every run. It is for tests alone.
package registrytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// Signer is a software key.
type Signer = statement.SoftwareKey

// NewSigner gives the key of a name: the same name gives the same key. It signs
// deterministically, so that golden vectors don't move.
func NewSigner(t testing.TB, name string) Signer {
	t.Helper()
	d := sha256.Sum256([]byte("registrytest key " + name))
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		t.Fatal(err)
	}
	key, err := statement.NewSoftwareKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key.Deterministic()
}

// ROM gives the identity-signing key of these tests.
func ROM(t testing.TB) Signer { return NewSigner(t, "identity-signing") }

// Chip gives the chip ID of a number.
func Chip(t testing.TB, n int) identity.ChipID {
	t.Helper()
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("registrytest chip"), uint64(n)))
	c, err := identity.ParseChipID(h[:16])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Record gives the record of a chip's generation: a certificate by ROM and a
// backup of the given size, in bytes.
func Record(t testing.TB, n int, g identity.Generation, backup int) registry.Record {
	t.Helper()
	id, err := identity.ParseIMEI(fmt.Sprintf("00440245%06d", n))
	if err != nil {
		t.Fatal(err)
	}
	claims, err := identity.Claims{
		Subject: id, IssuedAt: 1_700_000_000, ChipID: Chip(t, n), Realm: identity.Development, Generation: g,
		Manifest: sha256.Sum256([]byte("manifest")),
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.SignCertificate(t.Context(), ROM(t), claims)
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, backup)
	for i := range content {
		content[i] = byte(i * 7)
	}
	return registry.Record{Certificate: cert.Bytes(), Backup: content}
}

// backupSize is that of a device with one key, roughly.
const backupSize = 600

// Entry gives a register (generation 1) or supersede entry of a chip, sealed
// with a fresh nonce.
func Entry(t testing.TB, n int, g identity.Generation) registry.Entry {
	t.Helper()
	e := registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: g}
	if g > 1 {
		e.Type = registry.Supersede
	}
	e, err := registry.Seal(rand.Reader, Chip(t, n), e, Record(t, n, g, backupSize))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Public gives a certificates entry of a chip, whose certificate is none.
func Public(t testing.TB, n int, g identity.Generation, urn string) registry.Entry {
	t.Helper()
	b, err := registry.PublicCertificates{Identity: urn, X509: [][]byte{{0x30, 0x00}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return registry.Entry{Realm: identity.Development, Type: registry.Certificates, Record: Chip(t, n).RecordID(), Generation: g, Sealed: b}
}

// End gives a scrap or erase entry of a chip, its statement signed by signer.
func End(t testing.TB, n int, g identity.Generation, kind registry.EntryType, signer statement.Signer) registry.Entry {
	t.Helper()
	e := registry.Entry{Realm: identity.Development, Type: kind, Record: Chip(t, n).RecordID(), Generation: g}
	st, err := registry.SignStatement(t.Context(), signer, e)
	if err != nil {
		t.Fatal(err)
	}
	e.Statement = st
	return e
}

// Encode gives an entry's bytes.
func Encode(t testing.TB, e registry.Entry) []byte {
	t.Helper()
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Submission gives a submission of entries, signed by signer.
func Submission(t testing.TB, signer statement.Signer, submitter string, entries ...registry.Entry) []byte {
	t.Helper()
	s := registry.Submission{Realm: identity.Development, Submitter: submitter}
	for _, e := range entries {
		s.Entries = append(s.Entries, Encode(t, e))
	}
	raw, err := registry.SignSubmission(t.Context(), signer, s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
