package devicecert_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
)

// FuzzCheck: what holds was made by the CA, byte for byte up to the signature, and what is refused says why.
func FuzzCheck(f *testing.F) {
	c := goldenCA(f, readGolden(f).CA) // the fuzzer's processes all have the same
	var made [][]byte
	for _, u := range []keypackage.Use{keypackage.UseSignature, keypackage.UseAgreement} {
		q := request(f, u)
		q.Identity, q.Serial = imei(f, "00440245000001"), big.NewInt(1)
		made = append(made, c.certify(f, q))
		q.Record, q.Identity = nil, nil
		made = append(made, c.certify(f, q))
	}
	for _, der := range made {
		f.Add(der)
		f.Add(der[:len(der)-1])
	}
	f.Add(c.cert.Raw)
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := devicecert.Check(der, c.roots, devicecert.Want{})
		shown, unverified := devicecert.Unverified(der, dev)
		switch {
		case err == nil && !genuine(der, made):
			t.Fatalf("%x holds, and nobody signed it", der)
		case err == nil && (unverified != nil || shown.Public != got.Public || !bytes.Equal(got.X509.Raw, der)):
			t.Fatalf("checked and shown differ: %+v, %+v, %v", got, shown, unverified)
		case err != nil && !errors.Is(err, devicecert.ErrForm) && !errors.Is(err, devicecert.ErrIssuer):
			t.Fatalf("refused with another error: %v", err)
		case unverified != nil && !errors.Is(err, devicecert.ErrForm):
			t.Fatalf("it can't be shown (%v) and is refused with %v", unverified, err)
		}
	})
}

// genuine tells whether a certificate has the content of one of those made: ECDSA allows a second signature, which anyone
// can compute from the first.
func genuine(der []byte, made [][]byte) bool {
	content := func(b []byte) []byte {
		var c struct {
			Content   asn1.RawValue
			Algorithm asn1.RawValue
			Signature asn1.BitString
		}
		if _, err := asn1.Unmarshal(b, &c); err != nil {
			return nil
		}
		return c.Content.FullBytes
	}
	return slices.ContainsFunc(made, func(m []byte) bool { return bytes.Equal(content(m), content(der)) })
}

// FuzzRoots reads files of CAs.
func FuzzRoots(f *testing.F) {
	c := newCA(f, dev, "ca")
	one := pemOf(c.cert)
	f.Add(one)
	f.Add(slices.Concat(one, one))
	f.Add(one[:len(one)-5])
	f.Add(public(f, "ca").PEM())
	f.Fuzz(func(t *testing.T, text []byte) {
		roots, err := devicecert.ParseRoots(dev, text)
		if err == nil && roots.Realm() != dev || err != nil && roots != nil {
			t.Fatalf("%v, %v", roots, err)
		}
	})
}

// FuzzParsePEM: what reads as certificates, and nothing behind them, is written as the same certificates; what is cut or too
// long is refused.
func FuzzParsePEM(f *testing.F) {
	one := pemOf(newCA(f, dev, "ca").cert)
	f.Add(one)
	f.Add(slices.Concat([]byte("Certificate:\n  words of openssl\n"), one, []byte("\n"), one, []byte(" \r\n")))
	f.Add(slices.Concat(one, one[:len(one)-5]))
	f.Add(slices.Concat(one, []byte("and more")))
	f.Add(slices.Concat(one, public(f, "ca").PEM()))
	f.Add(bytes.Repeat([]byte(" "), devicecert.MaxPEM+1))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := devicecert.ParsePEM(text)
		if err != nil {
			if all != nil {
				t.Fatal("certificates beside an error")
			}
			return
		}
		if len(all) == 0 || len(text) > devicecert.MaxPEM {
			t.Fatalf("%d certificates of %d bytes", len(all), len(text))
		}
		var again []byte
		for _, c := range all {
			again = append(again, pemOf(c)...)
		}
		same, err := devicecert.ParsePEM(again)
		if err != nil || !slices.EqualFunc(all, same, func(a, b *x509.Certificate) bool { return a.Equal(b) }) {
			t.Fatalf("%d certificates are written as %d: %v", len(all), len(same), err)
		}
		if _, err := devicecert.ParsePEM(append(bytes.TrimSpace(text), 'x')); err == nil {
			t.Fatal("read with a letter behind them")
		}
	})
}
