package device

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// stored is the content of flash's identity area: the backup data package,
// exactly as it was published, with the certificate. A device restored from
// the registry has the same bytes as on the day it was made.
type stored struct {
	_           struct{} `cbor:",toarray"`
	Version     uint
	Certificate []byte
	Backup      []byte
}

const storedVersion = 1

func encodeStored(certificate, backup []byte) []byte {
	return detcbor.Must(stored{Version: storedVersion, Certificate: certificate, Backup: backup})
}

func parseStored(b []byte) (stored, error) {
	var s stored
	if err := detcbor.Unmarshal(b, &s, flash.MaxIdentity); err != nil {
		return s, fmt.Errorf("read flash: %w", err)
	}
	if s.Version != storedVersion || len(s.Certificate) > identity.MaxCertificate || len(s.Backup) > keypackage.MaxPackage {
		return s, fmt.Errorf("read flash: version %d, certificate of %d bytes, package of %d is not known", s.Version, len(s.Certificate), len(s.Backup))
	}
	return s, nil
}

// Stored gives what the flash holds: certificate and backup, byte for byte as
// they are published, not verified. Both are public; the chip alone opens the
// backup. An empty or torn flash matches flash.ErrEmpty or flash.ErrTorn.
func (d *Device) Stored(context.Context) (certificate, backup []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return nil, nil, err
	}
	content, err := d.flash.Identity()
	if err != nil {
		return nil, nil, fmt.Errorf("read flash: %w", err)
	}
	s, err := parseStored(content)
	return s.Certificate, s.Backup, err
}
