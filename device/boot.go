package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// Booted is what runs after a boot.
type Booted struct {
	Record     identity.RecordID
	Realm      identity.Realm
	Identity   identity.Identity
	Generation identity.Generation
	Entries    []keypackage.Entry // the manifest's lines: names, kinds, algorithms, what vouches for each
	secrets    map[string][]byte
}

// Secret gives a secret of the package by its entry's name: what the software
// that enforces a SIM lock, for example, would read. It never prints.
func (b *Booted) Secret(name string) ([]byte, bool) {
	s, ok := b.secrets[name]
	return slices.Clone(s), ok
}

// String names device and generation.
func (b *Booted) String() string {
	return fmt.Sprintf("%s %s, generation %d, record %s", b.Identity.Type(), b.Identity, b.Generation, b.Record.Short())
}

// Boot starts the device from its flash: reads it, verifies the chain from the
// ROM key down as a boot ROM does, and unwraps the keys as session keys that
// never leave the chip again. What ran before is stopped first.
//
// It refuses with ReasonNoFlash (and says what the device lacks),
// ReasonTornFlash, ReasonNotThisChip for another device's flash, and the
// reasons of Restore.
func (d *Device) Boot(ctx context.Context) (*Booted, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return nil, err
	}
	d.stop(ctx)
	content, err := d.flash.Identity()
	switch {
	case errors.Is(err, flash.ErrEmpty):
		return nil, refuse(ReasonNoFlash, err, "it lacks its %s", strings.Join(d.lacks(), ", "))
	case errors.Is(err, flash.ErrTorn):
		return nil, refuse(ReasonTornFlash, err, "it lacks its %s", strings.Join(d.lacks(), ", "))
	case err != nil:
		return nil, fmt.Errorf("boot: %w", err)
	}
	s, err := parseStored(content)
	if err != nil {
		return nil, refuse(ReasonTornFlash, err, "flash holds something that no device wrote")
	}
	rom, err := d.romKey(ctx)
	if err != nil {
		return nil, err
	}
	b, err := d.recover(ctx, rom, s.Certificate, s.Backup)
	if err != nil {
		return nil, err
	}
	d.booted = b
	d.names = entryNames(b.manifest)
	out := &Booted{
		Record: d.record, Realm: b.manifest.Realm, Identity: b.manifest.Identity, Generation: b.manifest.Generation,
		Entries: slices.Clone(b.manifest.Entries), secrets: map[string][]byte{},
	}
	for i, at := range b.manifest.Secrets() {
		out.secrets[b.manifest.Entries[at].Key.Name] = b.secrets[i].Value
	}
	d.log.InfoContext(ctx, "device booted", "generation", out.Generation)
	return out, nil
}

// lacks names what a device with nothing in flash does not have. It knows its
// keys' names only if it had them since it was opened.
func (d *Device) lacks() []string {
	lacks := []string{"identity", "identity certificate"}
	if len(d.names) == 0 {
		return append(lacks, "keys")
	}
	for _, n := range d.names {
		lacks = append(lacks, fmt.Sprintf("entry %q", n))
	}
	return lacks
}

// stop ends what runs: its resident keys are destroyed.
func (d *Device) stop(ctx context.Context) {
	if d.booted != nil {
		d.releaseKeys(ctx, d.booted.keys)
		d.booted = nil
	}
}
