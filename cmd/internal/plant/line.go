package plant

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The names of the plant's world.
const (
	// ProductLine is the one that is made.
	ProductLine = "phone"
	// TestTAC and LastTAC have the reporting body 00, reserved for test equipment: the
	// IMEIs are never a sold phone's.
	TestTAC = "00440245"
	LastTAC = "00440246"
)

// spare identities beyond the devices.
const spare = 10

// perTAC is how many serial numbers a TAC has.
const perTAC = 1_000_000

// ModuleDir is the folder of the basic software modules.
func (p *Plant) ModuleDir() string { return filepath.Join(p.Dir, "modules") }

// phoneProfile is the product line: a communication key derived from the master key, a
// SIM-lock code drawn for each device, a value for all to read; with pairs, one key
// pair for TLS and one for messages, made in advance, their certificates for everyone.
func phoneProfile(modules, pairs string) string {
	text := `name: ` + ProductLine + `
identity: imei
chip_id_bytes: 32
master_version: 1
kdf: 1
modules: ` + modules + `
entries:
  - {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}
  - {name: sim-unlock, kind: sim-lock, source: drawn, digits: true, size: 16}
  - {name: model, kind: opaque, source: value, clear: true, value: "phone, development"}
`
	if pairs == "" {
		return text
	}
	return text + `  - {name: tls, kind: key-pair, algorithm: es256, source: ` + pairs + `, certificate: true}
  - {name: message, kind: key-pair, algorithm: ecdh-p256, source: ` + pairs + `, certificate: true}
publish: directory
identity_in_certificates: true
`
}

// modules are the basic software modules of the patent's step 2; what is in
// them is the device maker's business.
var modules = map[string]string{
	"boot":      "boot stage of the development phone\n",
	"radio":     "radio stage of the development phone\n",
	"provision": "takes a data package, encrypts it under the chip's key, and restores from a backup\n",
}

// MistakenLines is how many lines of etc/imeis.csv are refused.
const MistakenLines = 3

// identities is the batch that is imported: ranges for the devices, and
// lines with the mistakes that real files have.
func (p *Plant) identities() string {
	var ranges strings.Builder
	wanted := p.Devices + spare
	for _, tac := range []string{TestTAC, LastTAC} {
		if n := min(wanted, perTAC); n > 0 {
			fmt.Fprintf(&ranges, "%s,000000,%06d\n", tac, n-1)
			wanted -= n
		}
	}
	return fmt.Sprintf(`# TAC, first and last serial number; or one IMEI a line
%s%s9999990
%s99999A
3512345
`, ranges.String(), TestTAC, TestTAC)
}

// ImportIdentities imports etc/imeis.csv and tells how many were taken, and how many lines
// were refused.
func (p *Plant) ImportIdentities(ctx context.Context) (imported, refused int, err error) {
	spp := p.SPPNames()[0]
	var r struct {
		Imported int
		Refused  []struct{ Line int }
	}
	err = p.Ask(ctx, p.With("spp", spp), &r, "pool", "import", "--config", p.Etc(spp+".yaml"), "--batch", p.Name, "--line", ProductLine, "--skip-refused", p.Etc("imeis.csv"))
	if err != nil {
		return 0, 0, err
	}
	if len(r.Refused) != MistakenLines {
		return 0, 0, fmt.Errorf("%d lines of the file were refused, %d are wrong in it", len(r.Refused), MistakenLines)
	}
	return r.Imported, len(r.Refused), nil
}

// ImportChips imports a chip maker's delivery list.
func (p *Plant) ImportChips(ctx context.Context, list string) error {
	spp := p.SPPNames()[0]
	_, err := p.Run(ctx, p.With("spp", spp), nil, "chips", "import", "--config", p.Etc(spp+".yaml"), list)
	return err
}

// CreateDevices is the chip maker's work for a station: slots, n in all, each with chip ID,
// chip key and attestation key, and a signed delivery list of those that are new. It gives
// the list and the devices' names in order.
func (p *Plant) CreateDevices(ctx context.Context, station string, n int) (list string, names []string, err error) {
	var made struct {
		Delivery string `json:"delivery"`
	}
	if err := p.Ask(ctx, p.With("device", station), &made, "create", "--devices", p.Fixtures(station), strconv.Itoa(n)); err != nil {
		return "", nil, err
	}
	return made.Delivery, DeviceNames(n), nil
}

// DeviceNames are the names of the first n devices of a station.
func DeviceNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("device-%04d", i+1))
	}
	return names
}
