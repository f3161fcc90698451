package provisioning

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

var errNoDerivedKey = errors.New("the manifest names no derived key")

func (s Station) actor() string { return "station " + s.Station }

// event names, in an audit entry, the keys that it licenses: the first purpose
// key, the others in the note, and behind them the serial numbers of the
// certificates that the device CA will sign.
func (a *Assembly) event(kind audit.Kind, actor string, d records.Device, ids []keypackage.KeyID, serials []*big.Int) audit.Event {
	var labels []string
	for _, id := range ids {
		labels = append(labels, fmt.Sprintf("%spurpose-%s-%d", a.realm.Prefix(), id.Name, id.Version))
	}
	if len(d.Certificate) == 0 {
		labels = append(labels, a.realm.Prefix()+"identity-signing")
		if len(serials) > 0 {
			labels = append(labels, a.caLabel)
		}
	}
	e := audit.Event{Kind: kind, Key: labels[0], Record: d.Record, Generation: d.Generation, Actor: actor}
	if len(labels) > 1 {
		e.Note = "and " + strings.Join(labels[1:], ", ")
	}
	if len(serials) > 0 {
		e.Note += "; " + audit.SerialsNote(serials)
	}
	return e
}

// eventOf is event for this Begin. It draws the serial numbers of the certificates
// that are still to be made: those of keys that came without one.
func (b *beginning) eventOf(kind audit.Kind, d records.Device, ids []keypackage.KeyID) (audit.Event, error) {
	b.serials = map[string]*big.Int{}
	var serials []*big.Int
	for _, e := range b.profile.Entries {
		if !e.Certificate || len(d.Certificate) > 0 {
			continue
		}
		w, err := b.waitingKey(e.Name)
		if err != nil {
			return audit.Event{}, err
		}
		if len(w.X509) > 0 {
			continue
		}
		n, err := devicecert.NewSerial()
		if err != nil {
			return audit.Event{}, err
		}
		b.serials[e.Name] = n
		serials = append(serials, n)
	}
	return b.event(kind, b.station.actor(), d, ids, serials), nil
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
	if err := a.records.License(ctx, a.event(audit.DeviceKey, actor, d, ids, nil)); err != nil {
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
	e, err := b.eventOf(audit.DeviceKey, b.device, ids)
	if err != nil {
		return err
	}
	if err := b.records.License(ctx, e); err != nil {
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
