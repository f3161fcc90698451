package registry_test

import (
	"bytes"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

// What is read has one encoding, and reading never panics.
func FuzzParseEntry(f *testing.F) {
	rom := registrytest.ROM(f)
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 1)))
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 2)))
	f.Add(registrytest.Encode(f, registrytest.End(f, 1, 2, registry.Scrap, rom)))
	f.Add([]byte{0x87, 1, 1, 1, 0xf6, 1, 0xf6, 0xf6})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := registry.ParseEntry(raw)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("an entry of %d bytes encodes to %d: %v", len(raw), len(again), err)
		}
		if !e.Type.HasRecord() && e.CheckStatement(rom.Public()) != nil {
			return
		}
	})
}

// A submission read without its signature is read the same way twice.
func FuzzSubmission(f *testing.F) {
	key := registrytest.NewSigner(f, "submission")
	f.Add(registrytest.Submission(f, key, "spp-1", registrytest.Entry(f, 1, 1)))
	f.Add([]byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, _, err := registry.UnverifiedSubmission(raw)
		if err != nil {
			return
		}
		if _, err := s.Encode(); err != nil {
			t.Fatalf("a submission that was read does not encode: %v", err)
		}
		for _, e := range s.Entries {
			_, _ = registry.ParseEntry(e)
		}
	})
}

// A record comes from whoever knew the chip ID, not from a friend.
func FuzzParseRecord(f *testing.F) {
	r := registrytest.Record(f, 1, 1, 40)
	r.X509 = [][]byte{{0x30, 0}}
	raw, err := r.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0x84, 1, 0x41, 1, 0x41, 1, 0xf6})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := registry.ParseRecord(raw)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("a record of %d bytes encodes to %d: %v", len(raw), len(again), err)
		}
	})
}

// Opening a sealed record that someone made up fails and does not panic.
func FuzzOpen(f *testing.F) {
	// The same nonce in each of the fuzzer's processes: what was sealed is e's and nothing else.
	chip := registrytest.Chip(f, 1)
	e, err := registry.Seal(bytes.NewReader(make([]byte, 12)), chip,
		registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: 1}, registrytest.Record(f, 1, 1, 40))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Sealed)
	f.Add(keypackage.Sealed{Ciphertext: make([]byte, 16)}.Encode())
	f.Fuzz(func(t *testing.T, sealed []byte) {
		c := e
		c.Sealed = sealed
		if _, err := registry.Open(chip, c); err == nil && !bytes.Equal(sealed, e.Sealed) {
			t.Fatalf("a sealed record of %d bytes opened that was never sealed", len(sealed))
		}
	})
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(`{"records":["` + registrytest.Chip(f, 1).RecordID().String() + `"]}`))
	f.Add([]byte(`{"records":[]}{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ids, err := registry.ParseLookup(raw)
		if (err == nil) != (len(ids) > 0 && len(ids) <= registry.MaxBatch) {
			t.Fatalf("%d ids and error %v", len(ids), err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	b := registry.Batch{Entries: []registry.Answer{{Entry: registrytest.Encode(f, registrytest.Entry(f, 1, 1))}}}
	raw, err := b.EncodeCBOR()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, missing, err := registry.ParseBatch(raw)
		if err == nil && len(found)+len(missing) > registry.MaxBatch {
			t.Fatalf("a batch of %d", len(found)+len(missing))
		}
	})
}
