package check

import (
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// points are the public keys seen so far: SHA-256 of each point, and the first
// generation whose manifest has it.
type points map[[sha256.Size]byte]deviceID

// look compares the points of a row's manifest with those of all rows before: no
// key pair ever serves two devices, nor two generations of one. A manifest that
// does not parse is the forms' to say.
func (p points) look(c *checker, d records.Device) {
	m, err := keypackage.ParseManifest(d.Manifest)
	if err != nil {
		return
	}
	id := deviceID{d.Record, d.Generation}
	for _, e := range m.Entries {
		if e.Form() != keypackage.FormPair {
			continue
		}
		c.checked(OneDevice, 1)
		point := sha256.Sum256(e.Vouch)
		first, twice := p[point]
		if !twice {
			p[point] = id
			continue
		}
		c.violated(OneDevice, d.Record, rows(deviceRow(d.Record, d.Generation), deviceRow(first.Record, first.Generation)),
			"entry %q has a public key that another generation's manifest has: whoever made that pair gave it twice, so one device can sign or read for the other", e.Key.Name)
	}
}
