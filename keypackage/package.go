package keypackage

import (
	"bytes"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Code is the constant beginning of a package: CBOR tag 55799 (self-described
// CBOR, RFC 8949 §3.4.6) around a tag of four letters. A device tells packages
// apart by comparing eight bytes.
type Code [8]byte

var (
	// BackupCode begins a backup data package: the patent's backup code.
	BackupCode = Code{0xd9, 0xd9, 0xf7, 0xda, 'P', 'D', 'K', 'B'}
	// DataCode begins an ordinary data package.
	DataCode = Code{0xd9, 0xd9, 0xf7, 0xda, 'P', 'D', 'K', 'D'}
)

// MaxPackage is the largest data or backup data package, in bytes: what a
// device can hold in memory while it checks one.
const MaxPackage = detcbor.MaxArtefact

const packageVersion = 1

// DataPackage is what the SPP sends a device.
type DataPackage struct {
	Point       statement.PublicKey // e_S, the SPP's fresh point
	Certificate []byte              // identity certificate
	Manifest    []byte              // encoded manifest
	Wrapped     [][]byte            // keys under the KEK, in the order of Manifest.Wrapped
	Secrets     *Sealed             // other secrets under K_pkg; nil where the manifest names none
}

type dataWire struct {
	_           struct{} `cbor:",toarray"`
	Version     uint
	Point       []byte
	Certificate []byte
	Manifest    []byte
	Wrapped     [][]byte
	Secrets     *encrypt0
}

// Encode gives the package's one encoding.
func (p DataPackage) Encode() ([]byte, error) {
	w := dataWire{Version: packageVersion, Point: p.Point.Point(), Certificate: p.Certificate, Manifest: p.Manifest, Wrapped: p.Wrapped}
	if w.Wrapped == nil {
		w.Wrapped = [][]byte{}
	}
	if p.Secrets != nil {
		s := p.Secrets.wire()
		w.Secrets = &s
	}
	return encodePackage(DataCode, w)
}

// ParseDataPackage reads the one encoding of a data package. Nothing in it is
// verified yet: the certificate comes first, then the manifest against it,
// then each entry.
func ParseDataPackage(b []byte) (DataPackage, error) {
	var w dataWire
	if err := parsePackage(DataCode, b, &w); err != nil {
		return DataPackage{}, fmt.Errorf("read data package: %w", err)
	}
	if w.Version != packageVersion {
		return DataPackage{}, fmt.Errorf("read data package: version %d is not known", w.Version)
	}
	point, err := statement.ParsePoint(w.Point)
	if err != nil {
		return DataPackage{}, fmt.Errorf("read data package: %w", err)
	}
	p := DataPackage{Point: point, Certificate: w.Certificate, Manifest: w.Manifest, Wrapped: w.Wrapped}
	if w.Secrets != nil {
		s, err := fromWire(*w.Secrets)
		if err != nil {
			return DataPackage{}, fmt.Errorf("read data package: %w", err)
		}
		p.Secrets = &s
	}
	if len(p.Certificate) == 0 || len(p.Certificate) > identity.MaxCertificate || len(p.Manifest) == 0 || p.Wrapped == nil {
		return DataPackage{}, fmt.Errorf("read data package: certificate of %d bytes, manifest of %d", len(p.Certificate), len(p.Manifest))
	}
	return p, nil
}

// Backup is a backup data package: what a device published of itself.
type Backup struct {
	Manifest []byte // encoded manifest
	Sealed   Sealed // Contents under the chip seal key, bound to BackupAAD
}

type backupWire struct {
	_        struct{} `cbor:",toarray"`
	Version  uint
	Manifest []byte
	Sealed   encrypt0
}

// Encode gives the package's one encoding; it begins with the backup code.
func (p Backup) Encode() ([]byte, error) {
	return encodePackage(BackupCode, backupWire{Version: packageVersion, Manifest: p.Manifest, Sealed: p.Sealed.wire()})
}

// ParseBackup reads the one encoding of a backup data package. Errors match
// ErrCode where the first eight bytes are not the backup code.
func ParseBackup(b []byte) (Backup, error) {
	var w backupWire
	if err := parsePackage(BackupCode, b, &w); err != nil {
		return Backup{}, fmt.Errorf("read backup data package: %w", err)
	}
	if w.Version != packageVersion {
		return Backup{}, fmt.Errorf("read backup data package: version %d is not known", w.Version)
	}
	if len(w.Manifest) == 0 {
		return Backup{}, fmt.Errorf("read backup data package: it has no manifest")
	}
	s, err := fromWire(w.Sealed)
	if err != nil {
		return Backup{}, fmt.Errorf("read backup data package: %w", err)
	}
	return Backup{Manifest: w.Manifest, Sealed: s}, nil
}

// ErrCode says that bytes do not begin with the code of the expected package.
var ErrCode = fmt.Errorf("package code is another one")

func encodePackage(code Code, wire any) ([]byte, error) {
	body, err := detcbor.Marshal(wire)
	if err != nil {
		return nil, err
	}
	if len(code)+len(body) > MaxPackage {
		return nil, fmt.Errorf("encode package: %d bytes, at most %d are allowed", len(code)+len(body), MaxPackage)
	}
	return append(code[:], body...), nil
}

func parsePackage(code Code, b []byte, wire any) error {
	if len(b) > MaxPackage {
		return fmt.Errorf("%w: %d bytes, at most %d are read", detcbor.ErrTooLarge, len(b), MaxPackage)
	}
	if !bytes.HasPrefix(b, code[:]) {
		return ErrCode
	}
	return detcbor.Unmarshal(b[len(code):], wire, MaxPackage)
}
