package checktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// pairs are the key pairs of a device that is made.
type pairs struct {
	advance bool
	entries []keypackage.Entry
}

// Paired takes a chip through the line as Device does; it has two key pairs, whose
// certificates its product line publishes. They were made in advance, or name the
// record.
func (w *World) Paired(n int, advance bool, to records.State) records.Device {
	w.T.Helper()
	w.pairs = &pairs{advance: advance}
	defer func() { w.pairs = nil }()
	return w.Device(n, 1, to)
}

// deviceCA gives the key of the world's device CA: the same each time.
func (w *World) deviceCA() *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte("checktest device CA"))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	w.Must(err)
	return key
}

// DeviceCA gives a certificate of the device CA.
func (w *World) DeviceCA() *x509.Certificate {
	w.T.Helper()
	ca, err := devicecert.SelfSigned(dev, "Example Devices", w.deviceCA())
	w.Must(err)
	return ca
}

// Certificate makes a certificate with the device CA's key, of a new key, licensed
// by nobody.
func (w *World) Certificate(a keypackage.Algorithm, serial *big.Int, record *identity.RecordID) (der []byte, point []byte) {
	w.T.Helper()
	authority, err := devicecert.New(w.DeviceCA(), w.deviceCA())
	w.Must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.Must(err)
	public, err := statement.FromECDSA(&key.PublicKey)
	w.Must(err)
	der, err = authority.Certify(w.T.Context(), devicecert.Request{Realm: dev, Use: a.Use(), Public: public, Record: record, ProductLine: "phone", Serial: serial})
	w.Must(err)
	return der, public.Point()
}

// certify gives a device of Paired its keys and certificates, and licenses those.
func (w *World) certify(d *records.Device, licence *audit.Event) {
	w.T.Helper()
	if w.pairs == nil {
		return
	}
	record := &d.Record
	if w.pairs.advance {
		record = nil
	}
	var serials []*big.Int
	w.pairs.entries = nil
	for name, a := range map[string]keypackage.Algorithm{"sign": keypackage.ES256, "agree": keypackage.ECDH} {
		serial, err := devicecert.NewSerial()
		w.Must(err)
		der, point := w.Certificate(a, serial, record)
		d.X509, serials = append(d.X509, der), append(serials, serial)
		w.pairs.entries = append(w.pairs.entries, keypackage.Entry{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: name}, Algorithm: a, Vouch: point})
	}
	if !w.pairs.advance {
		licence.Note = "and dev-identity-signing, dev-device-ca; " + audit.SerialsNote(serials)
		return
	}
	for _, e := range audit.Certifications("dev-device-ca", serials, "made in advance for line phone", "operator ann") {
		w.Must(w.Records.Store.License(w.T.Context(), e))
	}
}

// public gives the certificates entry of a device of Paired.
func (w *World) public(d records.Device) []byte {
	w.T.Helper()
	if w.pairs == nil {
		return nil
	}
	sealed, err := registry.PublicCertificates{Identity: d.Identity.URN(), X509: d.X509}.Encode()
	w.Must(err)
	raw, err := registry.Entry{Realm: dev, Type: registry.Certificates, Record: d.Record, Generation: d.Generation, Sealed: sealed}.Encode()
	w.Must(err)
	return raw
}
