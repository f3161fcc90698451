package devicecert_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// TestOf: a certificate is of the device whose manifest has its key, and of no other.
func TestOf(t *testing.T) {
	t.Parallel()
	c := newCA(t, dev, "ca")
	chip, err := identity.ParseChipID(bytes.Repeat([]byte{7}, 16))
	must(t, err)
	own, id, other := chip.RecordID(), imei(t, "00440245000001"), imei(t, "00440245000002")
	pair := func(name string, a keypackage.Algorithm) keypackage.Entry {
		return keypackage.Entry{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: name}, Algorithm: a, Vouch: public(t, name).Point()}
	}
	m := keypackage.Manifest{Realm: dev, Identity: id, ChipID: chip, Generation: 1, Entries: []keypackage.Entry{
		{Kind: keypackage.Opaque, Key: keypackage.KeyID{Name: "clear"}, Clear: true, Vouch: public(t, "clear").Point()},
		pair("sign", keypackage.ES256), pair("agree", keypackage.ECDH),
	}}
	for _, row := range []struct {
		name      string
		key       string
		algorithm keypackage.Algorithm
		record    *identity.RecordID
		identity  identity.Identity
		allow     bool
	}{
		{"made in advance", "agree", keypackage.ECDH, nil, nil, true},
		{"with the identity", "sign", keypackage.ES256, nil, id, true},
		{"of the record", "sign", keypackage.ES256, &own, id, true},
		{"another device's key", "stranger", keypackage.ECDH, nil, nil, false},
		{"another device's key under the record", "stranger", keypackage.ECDH, &own, id, false},
		{"another of its keys", "sign", keypackage.ECDH, nil, nil, false},
		{"a clear value", "clear", keypackage.ES256, nil, nil, false},
		{"another identity", "agree", keypackage.ECDH, nil, other, false},
		{"another record", "agree", keypackage.ECDH, record(9), nil, false},
	} {
		der := c.certify(t, devicecert.Request{Realm: dev, Use: row.algorithm.Use(), Public: public(t, row.key), Record: row.record, Identity: row.identity, ProductLine: "phone-a"})
		checked, err := devicecert.Check(der, c.roots, devicecert.Want{})
		must(t, err)
		shown, err := devicecert.Unverified(der, dev)
		must(t, err)
		for _, err := range []error{checked.Of(m), shown.Of(m)} {
			if (err == nil) != row.allow || err != nil && !errors.Is(err, devicecert.ErrOther) {
				t.Errorf("%s: %v", row.name, err)
			}
		}
		if !checked.Checked() || devicecert.Certificate(shown).Checked() {
			t.Errorf("%s: checked and shown are not told apart", row.name)
		}
	}
	p := newCA(t, prod, "ca")
	q := request(t, keypackage.UseSignature)
	q.Realm, q.Public, q.Record = prod, public(t, "sign"), nil
	foreign, err := devicecert.Check(p.certify(t, q), p.roots, devicecert.Want{})
	must(t, err)
	if err := foreign.Of(m); !errors.Is(err, devicecert.ErrOther) {
		t.Errorf("of the other realm: %v", err)
	}
}
