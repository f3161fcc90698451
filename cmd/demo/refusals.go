package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/statement"
)

// refusals offers devices and SPP what they must refuse.
func (d *demo) refusals(ctx context.Context) (_ string, err error) {
	stranger, err := d.stranger(ctx)
	if err != nil {
		return "", err
	}
	b, err := d.openBench(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var hands []*held
	defer func() {
		for _, h := range hands {
			err = errors.Join(err, h.Close(ctx))
		}
	}()
	for _, i := range []int{lost, other, reprovided} {
		h, err := b.hold(ctx, d.names[i])
		if err != nil {
			return "", err
		}
		hands = append(hands, h)
	}
	for _, try := range []func(context.Context, *bench, []*held) error{d.refuseBackups, d.refuseAfterLock} {
		if err := try(ctx, b, hands); err != nil {
			return "", err
		}
	}
	if err := d.refuseChannels(ctx, hands); err != nil {
		return "", err
	}
	if err := d.refuseChips(ctx, b, hands[other], stranger); err != nil {
		return "", err
	}
	refused := 0
	for _, r := range d.report.Refusals {
		if r.Refused {
			refused++
		}
	}
	return fmt.Sprintf("%d of %d refused, flash unchanged", refused, len(d.report.Refusals)), nil
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x01
	return b
}

// refuseBackups restores a device from what is not its newest own backup.
func (d *demo) refuseBackups(ctx context.Context, b *bench, hands []*held) error {
	h, neighbour, renewed := hands[lost], hands[other], hands[reprovided]
	backup, err := keypackage.ParseBackup(h.backup)
	if err != nil {
		return err
	}
	manifest := bytes.Index(h.backup, backup.Manifest)
	m, err := keypackage.ParseManifest(backup.Manifest)
	if err != nil {
		return err
	}
	foreign, foreignBackup, err := otherRealm(ctx, m, backup)
	if err != nil {
		return err
	}
	value := []byte(m.Identity.Value())
	changed := bytes.Clone(value)
	changed[len(changed)-1] = '0' + (changed[len(changed)-1]-'0'+1)%10
	for _, c := range []struct {
		what                string
		on                  *held
		certificate, backup []byte
	}{
		{"another device's certificate and backup", h, neighbour.certificate, neighbour.backup},
		{"another device's backup with the own certificate", h, h.certificate, neighbour.backup},
		{"a bit of the backup code flipped", h, h.certificate, flip(h.backup, 7)},
		{"a bit of the manifest flipped", h, h.certificate, flip(h.backup, manifest+len(backup.Manifest)-1)},
		{"a bit of the backup flipped", h, h.certificate, flip(h.backup, len(h.backup)-1)},
		{"a bit of the certificate flipped", h, flip(h.certificate, len(h.certificate)-1), h.backup},
		{"the own identity from another realm", h, foreign, foreignBackup},
		{"another IMEI in the manifest", h, h.certificate, bytes.Replace(h.backup, value, changed, 1)},
		{"another IMEI in the certificate", h, changeURN(h.certificate, m.Identity), h.backup},
		{"an older generation", renewed, d.older.certificate, d.older.backup},
	} {
		r, err := b.offer(c.on, c.what, func() error { return c.on.Restore(ctx, c.certificate, c.backup) })
		if err != nil {
			return err
		}
		d.report.Refusals = append(d.report.Refusals, r)
	}
	return nil
}

// otherRealm makes what another realm's manufacturer could make of the same
// chip and identity: certificate and manifest of the production realm, signed
// by a key made up here.
func otherRealm(ctx context.Context, m keypackage.Manifest, b keypackage.Backup) (certificate, backup []byte, err error) {
	key, err := statement.GenerateSoftwareKey()
	if err != nil {
		return nil, nil, err
	}
	m.Realm = identity.Production
	if b.Manifest, err = m.Encode(); err != nil {
		return nil, nil, err
	}
	if backup, err = b.Encode(); err != nil {
		return nil, nil, err
	}
	claims := identity.Claims{Subject: m.Identity, IssuedAt: 1700000000, ChipID: m.ChipID, Realm: m.Realm, Generation: m.Generation}
	raw, err := claims.Encode()
	if err != nil {
		return nil, nil, err
	}
	c, err := identity.SignCertificate(ctx, key, raw)
	return c.Bytes(), backup, err
}

// changeURN puts another serial number into a certificate.
func changeURN(certificate []byte, id identity.Identity) []byte {
	urn := []byte(id.URN())
	changed := bytes.Clone(urn)
	digit := &changed[len(changed)-3] // before the hyphen and the spare digit
	*digit = '0' + (*digit-'0'+1)%10
	return bytes.Replace(certificate, urn, changed, 1)
}

// refuseAfterLock gives a shipped device an ordinary package, with its own
// genuine certificate and manifest.
func (d *demo) refuseAfterLock(ctx context.Context, b *bench, hands []*held) error {
	h := hands[lost]
	backup, err := keypackage.ParseBackup(h.backup)
	if err != nil {
		return err
	}
	m, err := keypackage.ParseManifest(backup.Manifest)
	if err != nil {
		return err
	}
	key, err := statement.GenerateSoftwareKey()
	if err != nil {
		return err
	}
	p := keypackage.DataPackage{Point: key.Public(), Certificate: h.certificate, Manifest: backup.Manifest, Wrapped: [][]byte{}}
	for _, i := range m.Wrapped() {
		p.Wrapped = append(p.Wrapped, make([]byte, m.Entries[i].WrappedSize()))
	}
	if len(m.Secrets()) > 0 {
		p.Secrets = &keypackage.Sealed{Ciphertext: make([]byte, keypackage.TagSize)}
	}
	raw, err := p.Encode()
	if err != nil {
		return err
	}
	if _, err := h.Hello(ctx, keypackage.SuiteAttested); err != nil {
		return err
	}
	r, err := b.offer(h, "an ordinary package after the lock", func() error {
		_, err := h.Accept(ctx, raw, nil)
		return err
	})
	d.report.Refusals = append(d.report.Refusals, r)
	return err
}

// stranger makes one more chip, whose delivery list is not imported.
func (d *demo) stranger(ctx context.Context) (string, error) {
	if _, err := d.createDevices(ctx, d.Devices+1); err != nil {
		return "", err
	}
	last := d.names[d.Devices]
	d.names = d.names[:d.Devices]
	return last, nil
}

// refuseChips brings the SPP hellos that it must refuse.
func (d *demo) refuseChips(ctx context.Context, b *bench, h *held, stranger string) (err error) {
	hello, err := h.Hello(ctx, keypackage.SuiteAttested)
	if err != nil {
		return err
	}
	unlisted, err := b.slots.Device(ctx, stranger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlisted.Close(ctx)) }()
	rom, err := h.ROMKey(ctx)
	if err != nil {
		return err
	}
	if err := unlisted.WriteROM(ctx, rom); err != nil {
		return err
	}
	unlistedHello, err := unlisted.Hello(ctx, keypackage.SuiteAttested)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what  string
		hello []byte
	}{
		{"to the SPP: a chip that no delivery list names", unlistedHello},
		{"to the SPP: a wrong attestation", flip(hello, len(hello)-1)},
	} {
		r := Refusal{Case: c.what}
		_, err := b.spp.Begin(ctx, connect.NewRequest(&provisioningrpc.BeginRequest{Hello: c.hello}))
		r.Reason, r.Refused = refusedBy(err)
		d.report.Refusals = append(d.report.Refusals, r)
	}
	return nil
}
