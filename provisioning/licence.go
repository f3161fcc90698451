package provisioning

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

var errNoDerivedKey = errors.New("the manifest names no derived key")

func (s Station) actor() string { return "station " + s.Station }

// event names, in an audit entry, the keys that it licenses: the first purpose
// key, the others in the note.
func (a *Assembly) event(kind audit.Kind, actor string, d records.Device, ids []keypackage.KeyID) audit.Event {
	var labels []string
	for _, id := range ids {
		labels = append(labels, fmt.Sprintf("%spurpose-%s-%d", a.realm.Prefix(), id.Name, id.Version))
	}
	if len(d.Certificate) == 0 {
		labels = append(labels, a.realm.Prefix()+"identity-signing")
		if a.lines[d.Line].Certifies() {
			labels = append(labels, a.caLabel)
		}
	}
	e := audit.Event{Kind: kind, Key: labels[0], Record: d.Record, Generation: d.Generation, Actor: actor}
	if len(labels) > 1 {
		e.Note = "and " + strings.Join(labels[1:], ", ")
	}
	return e
}

// derivedOf lists the keys that a profile derives.
func derivedOf(p profile.Profile) []keypackage.KeyID {
	var ids []keypackage.KeyID
	for _, e := range p.Entries {
		if e.Source == profile.Derived {
			ids = append(ids, p.KeyID(e))
		}
	}
	return ids
}

// derivedIn lists the keys that a device's manifest says were derived.
func derivedIn(d records.Device) ([]keypackage.KeyID, error) {
	m, err := keypackage.ParseManifest(d.Manifest)
	if err != nil {
		return nil, err
	}
	var ids []keypackage.KeyID
	for _, e := range m.Entries {
		if e.Key.Derived() {
			ids = append(ids, e.Key)
		}
	}
	if len(ids) == 0 {
		return nil, errNoDerivedKey
	}
	return ids, nil
}

// derive derives keys in the HSM. The licence for it is committed.
func (a *Assembly) derive(ctx context.Context, d records.Device, ids []keypackage.KeyID) (map[string]keypackage.MACKey, error) {
	named := map[string]keypackage.MACKey{}
	for _, id := range ids {
		key, err := a.keys.DeviceKey(ctx, id, keypackage.DeviceKeyContext(a.realm, id, d.Identity, d.Generation, d.Record))
		if err != nil {
			bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
			defer cancel()
			destroyAll(bound, a.log, named)
			return nil, err
		}
		named[id.Name] = key
	}
	return named, nil
}

// keysAgain gives the keys of a device whose Begin is over: those that wait
// since then, or derived again, with an audit entry committed before. The
// caller releases them.
func (a *Assembly) keysAgain(ctx context.Context, actor string, d records.Device) (*deviceKeys, error) {
	id := deviceID{d.Record, d.Generation}
	if k := a.cache.take(ctx, id); k != nil {
		return k, nil
	}
	ids, err := derivedIn(d)
	if err != nil {
		return nil, err
	}
	// A crash after the entry leaves a licence that nobody used.
	if err := a.records.License(ctx, a.event(audit.DeviceKey, actor, d, ids)); err != nil {
		return nil, err
	}
	named, err := a.derive(ctx, d, ids)
	if err != nil {
		return nil, err
	}
	return a.cache.put(ctx, id, named), nil
}

// licence commits an audit entry for this Begin's use of keys, if none is yet:
// a row that was found may have had its first licence used up.
func (b *beginning) licence(ctx context.Context, ids []keypackage.KeyID) error {
	if b.licensed {
		return nil
	}
	if err := b.records.License(ctx, b.event(audit.DeviceKey, b.station.actor(), b.device, ids)); err != nil {
		return err
	}
	b.licensed = true
	return nil
}

// derived lists the device's derived keys: as its manifest says, or, before
// there is one, its profile.
func (b *beginning) derived() ([]keypackage.KeyID, error) {
	if len(b.device.Manifest) > 0 {
		return derivedIn(b.device)
	}
	if b.device.KDF != b.profile.KDF || b.device.Master != b.profile.MasterVersion {
		return nil, profileChanged(b.profile)
	}
	return derivedOf(b.profile), nil
}

// deviceKeys gives the device's keys. The caller releases them.
func (b *beginning) deviceKeys(ctx context.Context) (*deviceKeys, error) {
	id := deviceID{b.device.Record, b.device.Generation}
	ids, err := b.derived()
	if err != nil {
		return nil, err
	}
	if k := b.cache.take(ctx, id); k != nil {
		return k, nil
	}
	if err := b.licence(ctx, ids); err != nil {
		return nil, err
	}
	named, err := b.derive(ctx, b.device, ids)
	if err != nil {
		return nil, err
	}
	return b.cache.put(ctx, id, named), nil
}
