package registry_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

// What is read by hand, package detcbor reads too, and to the same values; what has the right form is read
// by hand.
func FuzzReadByHand(f *testing.F) {
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 1)))
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 1<<16)))
	f.Add(registrytest.Encode(f, registrytest.End(f, 1, 2, registry.Erase, registrytest.ROM(f))))
	s := registry.Submission{Realm: identity.Development, Submitter: "spp-é", Entries: [][]byte{{1}, make([]byte, 300)}}
	payload, err := s.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	// Longer heads than needed, of each length; a tag; a length beyond the end.
	f.Add([]byte{0x98, 4, 1, 1, 0x61, 'a', 0x80})
	f.Add([]byte{0x84, 0x18, 1, 1, 0x61, 'a', 0x80})
	f.Add([]byte{0x84, 1, 1, 0x79, 0, 1, 'a', 0x80})
	f.Add([]byte{0x84, 1, 1, 0x61, 'a', 0x9a, 0, 0, 0, 0})
	f.Add([]byte{0x84, 1, 1, 0x61, 'a', 0x9b, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x84, 1, 1, 0x61, 0xff, 0x80})
	f.Add([]byte{0x84, 1, 1, 0x61, 'a', 0x81, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xc0, 0x84, 1, 1, 0x61, 'a', 0x80})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, byHand := registry.ReadEntry(raw)
		slow, err := registry.ParseOddEntry(raw)
		if byHand && registry.Check(e) == nil {
			if err != nil || !cmp.Equal(e, slow) {
				t.Errorf("an entry read by hand, %+v, is %+v, %v", e, slow, err)
			}
		}
		if err == nil && !byHand {
			t.Errorf("an entry of the right form is not read by hand: %x", raw)
		}
		sub, byHand := registry.ReadSubmission(raw)
		slowly, err := registry.ParseOddSubmission(raw)
		if byHand {
			switch checked := sub.Check(); {
			case (checked == nil) != (err == nil), err == nil && !cmp.Equal(sub, slowly):
				t.Errorf("a submission read by hand, %+v (%v), is %+v, %v", sub, checked, slowly, err)
			}
		} else if err == nil {
			t.Errorf("a submission of the right form is not read by hand: %x", raw)
		}
		if registry.WellSealed(raw) {
			if _, err := keypackage.ParseSealed(raw, registry.MaxEntry); err != nil {
				t.Errorf("a sealed record that is taken at a glance does not parse: %v", err)
			}
		}
	})
}

// entryArray is the text of the format: [1, realm, type, record id, generation, sealed, statement].
func entryArray(e registry.Entry) []byte {
	present := func(b []byte) []byte { return append([]byte{}, b...) }
	return detcbor.Array(1, e.Realm, e.Type, e.Record[:], e.Generation, present(e.Sealed), present(e.Statement))
}

// What is written by hand is what package detcbor writes.
func TestWrittenByHand(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		e := registry.Entry{
			Realm:      rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(rt, "realm"),
			Type:       rapid.SampledFrom([]registry.EntryType{registry.Register, registry.Scrap}).Draw(rt, "type"),
			Generation: identity.Generation(rapid.Uint32Min(1).Draw(rt, "generation")),
		}
		copy(e.Record[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "record"))
		e.Record[0] |= 1
		if e.Type.HasRecord() {
			e.Sealed = keypackage.Sealed{Ciphertext: make([]byte, rapid.IntRange(16, 700).Draw(rt, "sealed"))}.Encode()
			if !registry.WellSealed(e.Sealed) {
				rt.Errorf("a sealed record of %d bytes is not taken at a glance", len(e.Sealed))
			}
		} else {
			e.Statement = make([]byte, rapid.IntRange(1, registry.MaxStatement).Draw(rt, "statement"))
		}
		encoded, err := e.Encode()
		if err != nil || !bytes.Equal(encoded, entryArray(e)) {
			rt.Fatalf("entry %x, %v, by detcbor %x", encoded, err, entryArray(e))
		}
		var sealed [32]byte
		copy(sealed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "hash"))
		if leaf := detcbor.Array(1, e.Realm, e.Type, e.Record[:], e.Generation, sealed[:]); !bytes.Equal(e.LeafOver(sealed), leaf) {
			rt.Fatalf("leaf %x, by detcbor %x", e.LeafOver(sealed), leaf)
		}
	})
}
