package device

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// Accepted is what a device answers to a package it took.
type Accepted struct {
	Record     identity.RecordID
	Generation identity.Generation
	Backup     []byte // backup data package, to be published
	// Confirm proves that the device has the package's keys and wrote this
	// backup: HMAC-SHA-256 over keypackage.ConfirmMessage under the proving
	// key, 32 bytes. A package with key pairs only is confirmed by ECDSA r‖s
	// over the message's SHA-256, 64 bytes.
	Confirm []byte
}

// Accept takes a data package that answers the newest hello: verifies it,
// takes its keys and secrets into the chip, encrypts them for this chip, and
// writes flash. unlock is nil except for a locked device.
//
// A refused package changes nothing in flash or chip. One that was verified
// and still refused (ReasonEntry), or failed, has used the hello up.
//
// A crash leaves flash with its old content, or, once it was written, with
// the new one; the station begins again with a new hello either way, since
// the SPP has seen no confirmation.
func (d *Device) Accept(ctx context.Context, pkg, unlock []byte) (Accepted, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return Accepted{}, err
	}
	rom, err := d.romKey(ctx)
	if err != nil {
		return Accepted{}, err
	}
	p, err := keypackage.ParseDataPackage(pkg)
	if err != nil {
		return Accepted{}, refuse(ReasonPackage, err, "the data package does not read")
	}
	v, err := d.verify(rom, p.Certificate, p.Manifest)
	if err != nil {
		return Accepted{}, err
	}
	if err := d.admit(ctx, rom, v, unlock); err != nil {
		return Accepted{}, err
	}
	if err := d.complete(p, v); err != nil {
		return Accepted{}, err
	}
	h := d.hello
	d.hello = nil // Agree uses it up
	a, err := d.take(ctx, h, p, v)
	if err != nil {
		return Accepted{}, err
	}
	d.stop(ctx) // what ran before is no longer what flash holds
	d.names = entryNames(v.manifest)
	d.log.InfoContext(ctx, "package accepted", "generation", a.Generation)
	return a, nil
}

// complete checks what can be checked without a key: that the package brings
// what the manifest names, one to one, that something in it can prove that it
// arrived, that a hello waits for it, and that the SPP's point is not the
// device's own.
func (d *Device) complete(p keypackage.DataPackage, v vouched) error {
	if err := keypackage.CheckWrapped(p.Wrapped, v.manifest); err != nil {
		return refuse(ReasonEntry, err, "the package does not bring the manifest's keys")
	}
	if want := len(v.manifest.Secrets()) > 0; want != (p.Secrets != nil) {
		return refuse(ReasonEntry, nil, "the manifest names %d secrets, and the package brings them: %t", len(v.manifest.Secrets()), p.Secrets != nil)
	}
	if _, ok := proving(v.manifest); !ok {
		return refuse(ReasonAlgorithm, nil, "no key of the package can prove that it arrived")
	}
	if d.hello == nil {
		return refuse(ReasonNoHello, nil, "it waits for no package")
	}
	if p.Point == d.hello.exchange.Point() {
		return refuse(ReasonPoint, nil, "the SPP's point is this device's own")
	}
	return nil
}

// take carries out the transfer of a verified package.
func (d *Device) take(ctx context.Context, h *hello, p keypackage.DataPackage, v vouched) (Accepted, error) {
	transcript := keypackage.Transcript(h.message, p.Point.Point(), v.certificate.ClaimsBytes())
	transfer, err := h.exchange.Agree(ctx, p.Point, h.suite, transcript, p.Secrets != nil)
	if err != nil {
		return Accepted{}, fmt.Errorf("accept package: %w", err)
	}
	defer d.release(ctx, "transfer", transfer.Close)

	keys := map[int]chip.Key{}
	defer d.releaseKeys(ctx, keys)
	for i, at := range v.manifest.Wrapped() {
		if keys[at], err = transfer.Unwrap(ctx, v.manifest, at, p.Wrapped[i]); err != nil {
			delete(keys, at)
			return Accepted{}, entryError(err)
		}
	}
	var secrets []keypackage.Secret
	if p.Secrets != nil {
		plain, err := transfer.Open(ctx, transcript, *p.Secrets)
		if errors.Is(err, chip.ErrData) {
			return Accepted{}, refuse(ReasonEntry, err, "the package's secrets do not open")
		} else if err != nil {
			return Accepted{}, fmt.Errorf("accept package: open secrets: %w", err)
		}
		if secrets, err = keypackage.ParseSecrets(plain, v.manifest); err != nil {
			return Accepted{}, refuse(ReasonEntry, err, "the package's secrets are not the manifest's")
		}
	}

	// Everything is verified; from here on the chip's own keys come into play.
	backup, err := d.protect(ctx, p.Manifest, v, keys, secrets)
	if err != nil {
		return Accepted{}, fmt.Errorf("accept package: %w", err)
	}
	// A crash in this write leaves flash's old content; after it, the new one.
	if err := d.flash.WriteIdentity(encodeStored(p.Certificate, backup)); err != nil {
		return Accepted{}, fmt.Errorf("accept package: %w", err)
	}
	confirm, err := prove(ctx, v.manifest, keys, keypackage.ConfirmMessage(transcript, sha256.Sum256(backup)))
	if err != nil {
		return Accepted{}, fmt.Errorf("accept package: confirm: %w", err)
	}
	return Accepted{Record: d.record, Generation: v.certificate.Generation, Backup: backup, Confirm: confirm}, nil
}

// protect makes the backup data package.
func (d *Device) protect(ctx context.Context, manifest []byte, v vouched, keys map[int]chip.Key, secrets []keypackage.Secret) ([]byte, error) {
	protection, err := d.chip.Protect(ctx, v.claims)
	if err != nil {
		return nil, err
	}
	defer d.release(ctx, "protection", protection.Close)
	contents := keypackage.Contents{Secrets: secrets}
	for _, at := range v.manifest.Wrapped() {
		wrapped, err := protection.Wrap(ctx, keys[at])
		if err != nil {
			return nil, err
		}
		contents.Wrapped = append(contents.Wrapped, wrapped)
	}
	plain, err := contents.Encode(v.manifest)
	if err != nil {
		return nil, err
	}
	sealed, err := protection.Seal(ctx, plain)
	if err != nil {
		return nil, err
	}
	return keypackage.Backup{Manifest: manifest, Sealed: sealed}.Encode()
}

func (d *Device) releaseKeys(ctx context.Context, keys map[int]chip.Key) {
	for _, k := range keys {
		d.release(ctx, "package", k.Destroy)
	}
}

func entryNames(m keypackage.Manifest) []string {
	var names []string
	for _, e := range m.Entries {
		names = append(names, e.Key.Name)
	}
	return names
}
