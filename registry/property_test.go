package registry_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
)

// TestOneEncoding: what of an entry, a record or a submission was changed is
// refused or is another one's one encoding.
func TestOneEncoding(t *testing.T) {
	t.Parallel()
	some := func(t *rapid.T, name string, least, most int) []byte {
		return rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		e := registry.Entry{Realm: identity.Development, Type: registry.EntryType(rapid.IntRange(1, 5).Draw(t, "type")),
			Record: identity.RecordID(append([]byte{1}, some(t, "record id", 31, 31)...)), Generation: identity.Generation(rapid.Uint32Min(1).Draw(t, "generation"))}
		if e.Type.HasRecord() {
			e.Sealed = keypackage.Sealed{Nonce: [12]byte(some(t, "nonce", 12, 12)), Ciphertext: some(t, "ciphertext", 16, 60)}.Encode()
		} else if e.Type == registry.Certificates {
			p := registry.PublicCertificates{Identity: rapid.StringMatching(`[!-.0-~]{0,20}`).Draw(t, "identity"), X509: rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 9), 1, 3).Draw(t, "certificates")}
			var err error
			if e.Sealed, err = p.Encode(); err != nil {
				t.Fatal(err)
			}
		} else {
			e.Statement = some(t, "statement", 1, 100)
		}
		raw, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "entry", raw, func(b []byte) ([]byte, error) {
			e, err := registry.ParseEntry(b)
			if err != nil {
				return nil, err
			}
			return written(t, b, e.Encode)
		})
		r := registry.Record{Certificate: some(t, "certificate", 1, 60), Backup: some(t, "backup", 1, 60), X509: rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 9), 0, 3).Draw(t, "X.509")}
		if raw, err = r.Encode(); err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "record", raw, func(b []byte) ([]byte, error) {
			r, err := registry.ParseRecord(b)
			if err != nil {
				return nil, err
			}
			return written(t, b, r.Encode)
		})
		sub := registry.Submission{Realm: identity.Production, Submitter: rapid.StringMatching(`[a-z0-9-]{1,64}`).Draw(t, "submitter"),
			Entries: rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 40), 1, 3).Draw(t, "entries")}
		if raw, err = sub.Encode(); err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "submission", raw, func(b []byte) ([]byte, error) {
			s, err := registry.ParsePayload(b)
			if err != nil {
				return nil, err
			}
			return written(t, b, s.Encode)
		})
	})
}

func written(t *rapid.T, b []byte, encode func() ([]byte, error)) ([]byte, error) {
	again, err := encode()
	if err != nil {
		t.Fatalf("%x was read and can't be written: %v", b, err)
	}
	return again, nil
}

// TestLeafInjective: two entries have one leaf if and only if they are the same
// but for what the leaf does not hold, the statement; and the seal's context
// tells apart what a sealed record must not be moved between.
func TestLeafInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func() registry.Entry {
			return registry.Entry{Realm: identity.Realm(rapid.IntRange(1, 2).Draw(t, "realm")), Type: registry.EntryType(rapid.IntRange(1, 5).Draw(t, "type")),
				Record: identity.RecordID{rapid.ByteRange(1, 3).Draw(t, "record id")}, Generation: identity.Generation(rapid.Uint32Range(1, 3).Draw(t, "generation")),
				Sealed: rapid.SliceOfN(rapid.Byte(), 0, 2).Draw(t, "sealed")}
		}
		a, b := draw(), draw()
		head := a.Realm == b.Realm && a.Type == b.Type && a.Record == b.Record && a.Generation == b.Generation
		if (a.LeafHash() == b.LeafHash()) != (head && string(a.Sealed) == string(b.Sealed)) {
			t.Fatalf("leaves of %+v and %+v: %x and %x", a, b, a.Leaf(), b.Leaf())
		}
		if (string(registry.SealContext(a)) == string(registry.SealContext(b))) != head {
			t.Fatalf("contexts of %+v and %+v", a, b)
		}
	})
}
