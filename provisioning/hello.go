package provisioning

import (
	"bytes"
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

// hello is a device's first message after it was checked.
type hello struct {
	keypackage.Hello
	m1 []byte // its encoding: what was attested and what the transcript hashes
}

// attested is how an attestation begins (COSE_Sign1); a bare hello is a plain
// array.
var attested = []byte{0xd2, 0x84}

// openHello reads a hello and checks all that can be checked without a key of
// ours: form, product line, realm, ROM key, and that it comes from the chip it
// names. A refusal changes nothing; one that looks like an attack is kept as an
// incident.
func (a *Assembly) openHello(ctx context.Context, s Station, p profile.Profile, raw []byte) (hello, error) {
	h := hello{m1: raw}
	signed := bytes.HasPrefix(raw, attested)
	if signed {
		var err error
		if h.m1, _, err = statement.Unverified(raw, statement.Attestation, keypackage.MaxHello); err != nil {
			return h, malformedHello(err)
		}
	}
	var err error
	if h.Hello, err = keypackage.ParseHello(h.m1); err != nil {
		return h, malformedHello(err)
	}
	if signed != (h.Suite == keypackage.SuiteAttested) {
		return h, refuse(CodeMalformed, "look at the device's software", "the hello is of suite %s, its envelope says otherwise", h.Suite)
	}
	switch {
	case h.Realm != a.realm:
		return h, refuse(CodeOtherRealm, "take the device to a line of its realm", "the device is of realm %s, this SPP of %s", h.Realm, a.realm)
	case h.ChipID.Len() != p.ChipIDBytes:
		return h, refuse(CodeChipIDLength, "take the chips that the product line is made for, or correct chip_id_bytes in its profile",
			"the chip ID has %d bytes, product line %q has chip IDs of %d", h.ChipID.Len(), p.Name, p.ChipIDBytes)
	case h.ROMKey != a.keys.ROMKey().Hash():
		return h, refuse(CodeROMKey, "the ROM key is written once: this device belongs to another maker or realm",
			"the key in the device's ROM is not this maker's")
	}
	return h, a.attest(ctx, s, p, h, raw, signed)
}

// attest asks the delivery lists who may speak for the chip.
func (a *Assembly) attest(ctx context.Context, s Station, p profile.Profile, h hello, raw []byte, signed bool) error {
	id := deviceID{Record: h.ChipID.RecordID()}
	chip, err := a.records.Chip(ctx, id.Record)
	listed := !errors.Is(err, records.ErrNotFound)
	if err != nil && listed {
		return err
	}
	switch {
	case chip.Contested != "":
		return refuse(CodeContested, "set the device aside: two chips may have one chip ID; an operator judges and runs spp device release",
			"the chip of record %s is contested: two delivery lists claim it", id.Record.Short())
	case !signed && listed:
		a.incident(ctx, s, id, CodeUnattested, "begin", "a listed chip came without attestation",
			facts{"expected_key": digest(chip.Attestation.SPKI()), "came_hello": digest(h.m1)})
		return refuse(CodeUnattested, "a listed chip is never taken unattested: look for what stands between station and chip",
			"record %s is listed, its hello is not attested", id.Record.Short())
	case !signed && !p.AllowUnattested:
		return refuse(CodeUnattested, "take attested chips, or allow_unattested in the profile, at its stated risk",
			"product line %q takes attested chips only", p.Name)
	case !signed:
		return nil
	case !listed:
		return refuse(CodeUnlistedChip, "import the delivery list that names it: spp chips import",
			"no delivery list names the chip of record %s", id.Record.Short())
	}
	if _, err := statement.Open(raw, statement.Attestation, chip.Attestation, keypackage.MaxHello); err != nil {
		f := facts{"expected_key": digest(chip.Attestation.SPKI()), "came_hello": digest(h.m1)}
		if _, claimed, err := statement.Unverified(raw, statement.Attestation, keypackage.MaxHello); err == nil {
			f["came_key_id"] = claimed.String()
		}
		a.incident(ctx, s, id, CodeAttestation, "begin", "a hello was not signed by the chip's attestation key", f)
		return refuse(CodeAttestation, "set the device aside: it is not the chip it says it is, or its message was changed on the way",
			"the hello of record %s is not signed by the key that the delivery list names", id.Record.Short()).because(err)
	}
	return nil
}

func malformedHello(err error) *Refusal {
	return refuse(CodeMalformed, "look at the device's software: formats.md says what a hello is", "%v", err).because(err)
}
