package maker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
)

// FuzzRecord reads any data object of the token as a key's record: what passes
// has one encoding, stands under its own label and can't be changed.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{Version: 1, Realm: identity.Development, Master: 1, KDF: hsm.KDF1},
		{Version: 1, Realm: identity.Development, Master: 2, KDF: hsm.KDF2, Purpose: "channel"},
		{Version: 1, Realm: identity.Production, Master: 1, KDF: hsm.KDF1},
	} {
		b := detcbor.Must(r)
		f.Add(b, r.label(), true, true)
		f.Add(b, r.label()+"x", true, true)
		f.Add(b[:len(b)-1], r.label(), true, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, label string, private, oneWay bool) {
		r, err := parseRecord(hsm.Data{Application: application, Label: label, Value: b, Private: private, OneWay: oneWay}, identity.Development)
		if err != nil {
			return
		}
		if !bytes.Equal(detcbor.Must(r), b) || r.label() != label || !strings.HasPrefix(label, "dev-") || !private || !oneWay || len(b) > maxRecord {
			t.Fatalf("%x under %q passes as %+v", b, label, r)
		}
	})
}

// FuzzSigned gives any bytes to what the identity-signing, submission and audit keys sign, and to the associated data under which the
// pool seal key works: what passes has one encoding and is of this realm, and no bytes pass as two of them.
func FuzzSigned(f *testing.F) {
	k := &Keys{realm: identity.Development}
	hash := make([]byte, 32)
	for _, realm := range []identity.Realm{identity.Development, identity.Production} {
		for _, v := range []any{
			leaf{Version: 1, Realm: realm, Type: entryScrap, Record: hash, Generation: 1, Payload: hash},
			leaf{Version: 1, Realm: realm, Type: 1, Record: hash, Generation: 1, Payload: hash},
			submission{Version: 1, Realm: realm, Submitter: "spp-1", Entries: [][]byte{{1}, {2, 3}}},
			submission{Version: 1, Realm: realm, Submitter: "spp-1", Entries: [][]byte{{}}},
			auditHead{Version: 1, Realm: realm, Sequence: 7, Hash: hash, Time: 1_800_000_000},
			auditHead{Version: 1, Realm: realm, Sequence: -1, Hash: hash, Time: 1_800_000_000},
			poolAAD{Label: "dk-pool", Version: 1, Realm: realm, Batch: 1, Identity: "urn:gsma:imei:00440245-000001-0", Entry: "sim-lock"},
			poolAAD{Label: "dk-pool", Version: 1, Realm: realm, Batch: 1, Identity: "urn:dev:mac:0000000000000000", Entry: "sim-lock"},
		} {
			b := detcbor.Must(v)
			f.Add(b)
			f.Add(b[:len(b)-1])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		passed := 0
		for _, c := range []struct {
			check func([]byte) error
			into  any
			realm func(any) identity.Realm
		}{
			{k.checkLeaf, &leaf{}, func(v any) identity.Realm { return v.(*leaf).Realm }},
			{k.checkSubmission, &submission{}, func(v any) identity.Realm { return v.(*submission).Realm }},
			{k.checkAuditHead, &auditHead{}, func(v any) identity.Realm { return v.(*auditHead).Realm }},
			{k.checkPoolAAD, &poolAAD{}, func(v any) identity.Realm { return v.(*poolAAD).Realm }},
		} {
			if c.check(b) != nil {
				continue
			}
			passed++
			if err := detcbor.Unmarshal(b, c.into, maxSubmission); err != nil || !bytes.Equal(detcbor.Must(c.into), b) || c.realm(c.into) != k.realm {
				t.Fatalf("%x passes as %+v: %v", b, c.into, err)
			}
		}
		if passed > 1 {
			t.Fatalf("%x passes as %d things", b, passed)
		}
	})
}
