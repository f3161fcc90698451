package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
)

const (
	// stationCALife is how long the CA of stations and programs lasts: a plant's equipment is replaced within it.
	stationCALife = 10
	// deviceCALife is how long the CA of devices lasts: a device sold in a product's last year still shows its
	// certificate at the end of its own life.
	deviceCALife = 30

	// backdate lets machines whose clocks lag a little accept a new certificate at once.
	backdate = 5 * time.Minute
)

// authority is one of the CAs.
type authority struct {
	file, label, name string
	unit              string // "" or what tells one version's name from another's
	years             int
}

func authorities(c Config) (station, device authority) {
	station = authority{file: "station-ca.pem", label: maker.StationCALabel(c.Realm), name: c.Realm.String() + " station CA", years: stationCALife}
	return station, deviceAuthority(c, 1)
}

// deviceAuthority is a version of the device CA. All have one common name, which says what they are for (package
// devicecert); from version 2 on an organisational unit tells them apart, so that a verifier which looks issuers up by
// name alone finds the right one.
func deviceAuthority(c Config, version uint32) authority {
	a := authority{file: "device-ca.pem", label: maker.DeviceCALabel(c.Realm, version), name: devicecert.CACommonName(c.Realm), years: deviceCALife}
	if version > 1 {
		a.file, a.unit = fmt.Sprintf("device-ca-%d.pem", version), fmt.Sprintf("version %d", version)
	}
	return a
}

func (a authority) path(c Config) string { return filepath.Join(c.Public.String(), a.file) }

// publish makes the CA's certificate, signed by itself, or keeps the one in the folder if it is of this key. A crash
// after the audit entry leaves an entry without an act; one after signing loses a certificate that nobody has.
func (a authority) publish(ctx context.Context, tok *hsm.Token, c Config, l *licence) (made bool, err error) {
	path := a.path(c)
	signer, err := tok.Signer(a.label)
	if err != nil {
		return false, err
	}
	old, err := readCertificate(path)
	switch {
	case err == nil:
		return false, a.check(path, old, signer)
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	subject := pkix.Name{Organization: []string{c.Organisation}, CommonName: a.name}
	if a.unit != "" {
		subject.OrganizationalUnit = []string{a.unit}
	}
	serial, err := l.certify(ctx, a.label, subject.String())
	if err != nil {
		return false, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: now.Add(-backdate), NotAfter: now.AddDate(a.years, 0, 0),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, // it signs leaves only
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return false, fmt.Errorf("sign the certificate of %q: %w", a.label, err)
	}
	return true, createFile(path, certificatePEM(der))
}

// load reads the CA's certificate and the signer behind it.
func (a authority) load(tok *hsm.Token, c Config) (*x509.Certificate, crypto.Signer, error) {
	path := a.path(c)
	cert, err := readCertificate(path)
	if err != nil {
		return nil, nil, console.Hint(err, "run custodian setup, which makes it")
	}
	signer, err := tok.Signer(a.label)
	if err == nil {
		err = a.check(path, cert, signer)
	}
	return cert, signer, err
}

func (a authority) check(path string, cert *x509.Certificate, signer crypto.Signer) error {
	if !cert.IsCA || !samePublic(cert.PublicKey, signer.Public()) || cert.CheckSignatureFrom(cert) != nil {
		return console.Hint(fmt.Errorf("%q is not the certificate of key %q: it is of another set-up", path, a.label), "move the file away, or name another folder as public; nothing is overwritten")
	}
	return nil
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// readCertificate reads a file with one certificate.
func readCertificate(path string) (*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	found, err := devicecert.ParsePEM(text)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d certificates: one PEM block CERTIFICATE is expected", len(found))
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return found[0], nil
}
