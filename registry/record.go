package registry

import (
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// Record is what an owner restores a device from.
type Record struct {
	Certificate []byte   // identity certificate, at most identity.MaxCertificate bytes
	Backup      []byte   // backup data package, encrypted by the device for itself
	X509        [][]byte // further certificates, DER, at most MaxX509; may be empty
}

// MaxX509 is the most X.509 certificates of a record: a chain or two.
const MaxX509 = 8

const recordVersion = 1

type recordWire struct {
	_           struct{} `cbor:",toarray"`
	Version     uint
	Certificate []byte
	Backup      []byte
	X509        [][]byte
}

// Encode gives the record's one encoding: the plaintext that Seal encrypts.
func (r Record) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	w := recordWire{Version: recordVersion, Certificate: r.Certificate, Backup: r.Backup, X509: r.X509}
	if w.X509 == nil {
		w.X509 = [][]byte{} // nil would encode as null
	}
	return detcbor.Marshal(w)
}

// ParseRecord reads the one encoding of a record. The certificate's signature
// is checked by identity.ParseCertificate, the backup by the device.
func ParseRecord(b []byte) (Record, error) {
	var w recordWire
	if err := detcbor.Unmarshal(b, &w, MaxEntry); err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	if w.Version != recordVersion {
		return Record{}, fmt.Errorf("read record: version %d is not known", w.Version)
	}
	if w.X509 == nil {
		return Record{}, fmt.Errorf("read record: null stands for the X.509 certificates: an empty array is expected")
	}
	r := Record{Certificate: w.Certificate, Backup: w.Backup}
	if len(w.X509) > 0 {
		r.X509 = w.X509
	}
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("read record: %w", err)
	}
	return r, nil
}

func (r Record) check() error {
	switch {
	case len(r.Certificate) == 0 || len(r.Certificate) > identity.MaxCertificate:
		return fmt.Errorf("identity certificate of %d bytes: 1 to %d are allowed", len(r.Certificate), identity.MaxCertificate)
	case len(r.Backup) == 0 || len(r.Backup) > keypackage.MaxPackage:
		return fmt.Errorf("backup of %d bytes: 1 to %d are allowed", len(r.Backup), keypackage.MaxPackage)
	case len(r.X509) > MaxX509:
		return fmt.Errorf("%d X.509 certificates: at most %d are allowed", len(r.X509), MaxX509)
	}
	for i, c := range r.X509 {
		if len(c) == 0 {
			return fmt.Errorf("X.509 certificate %d is empty", i+1)
		}
	}
	return nil
}
