package check_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/audit/check/checktest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

const dev = identity.Development

// world is one whose keys are software: what they are asked is counted.
type world struct {
	*checktest.World
	keys *checktest.SoftKeys
}

func newWorld(t testing.TB, shipped int) *world {
	keys := checktest.NewSoftKeys(t)
	return &world{checktest.New(t, keys, shipped), keys}
}

func TestAllHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	before := w.keys.Used.Load()
	r := w.Run()
	generations, published := checktest.Generations(3)
	if !r.Holds() || r.Devices != generations {
		t.Errorf("%d devices, holds %v:\n%+v", r.Devices, r.Holds(), r.Invariants)
	}
	for i, inv := range r.Invariants {
		if inv.Number != i+1 || inv.Checked == 0 || len(inv.Unchecked) != 0 {
			t.Errorf("%s: checked %d, left out %v", inv.Name, inv.Checked, inv.Unchecked)
		}
	}
	if n := w.keys.Used.Load() - before; n != published {
		t.Errorf("%d proofs verified, want %d", n, published)
	}
	if n := w.keys.Derived.Load(); n != 0 {
		t.Errorf("%d device keys were left in the token", n)
	}
	// Each use of a key has its entry, by the one who checked.
	checks := int64(0)
	if _, err := w.Log("auditor").Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		if e.Kind == audit.Check && e.Actor == "auditor" && e.Key == "dev-purpose-channel-1" {
			checks++
		}
		return nil
	}); err != nil || checks != published {
		t.Errorf("%d entries for %d uses, %v", checks, published, err)
	}
	if !w.Run().Holds() {
		t.Error("the second run finds what the first one left")
	}
	s := w.Sources()
	s.Grace = time.Hour
	if r := check.Run(t.Context(), s); !r.Holds() {
		t.Errorf("with a grace: %+v", r.Invariants)
	}
}

// TestSourcesLeftOut: what can't be checked is said, not passed over.
func TestSourcesLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	s := w.Sources()
	s.Keys, s.Registry, s.RegistryStore, s.ReservationLife = nil, nil, nil, 0
	r := check.Run(t.Context(), s)
	if !r.Holds() {
		t.Errorf("%+v", r.Invariants)
	}
	for _, i := range r.Invariants {
		if want := i.Name != check.Counts; want != (len(i.Unchecked) > 0) {
			t.Errorf("%s left out %q", i.Name, i.Unchecked)
		}
	}
	if r := check.Run(t.Context(), check.Sources{Realm: dev}); r.Holds() || r.Invariants[0].Unread == "" {
		t.Error("a check of nothing holds")
	}
	other := w.Sources()
	other.ROMKey = registrytest.NewSigner(t, "another").Public()
	if r := check.Run(t.Context(), other); r.Holds() {
		t.Error("a token of another maker was taken")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, i := range check.Run(ended, w.Sources()).Invariants {
		if i.Holds {
			t.Errorf("%s holds, though nothing could be read", i.Name)
		}
	}
}

// TestRegistryAway: a registry that doesn't answer makes its invariant fail, and
// no other.
func TestRegistryAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	s := w.Sources()
	away, err := registry.NewClient("http://127.0.0.1:1", &http.Client{Timeout: time.Second}, registry.ClientOptions{})
	w.Must(err)
	s.Registry = away
	for _, i := range check.Run(t.Context(), s).Invariants {
		if i.Holds != (i.Name != check.Findable) || (i.Unread == "") != i.Holds || i.Found != 0 {
			t.Errorf("%s: holds %v, unread %q, found %d", i.Name, i.Holds, i.Unread, i.Found)
		}
	}
}

// planted is one thing that is wrong, and how it must be named.
type planted struct {
	name      string
	invariant string
	plant     func(w *world)
	device    int    // its number; -1: the violation concerns no device, -2: one of no number
	cause     string // a part of the cause
	row       string // a part of the rows
}

// stranger is a device that no chip of the world is.
const stranger = "any"

// find runs the checker and looks for the violation.
func (p planted) find(t *testing.T, w *world) {
	t.Helper()
	want := ""
	switch {
	case p.device >= 0:
		want = registrytest.Chip(t, p.device).RecordID().Short()
	case p.device == -2:
		want = stranger
	}
	r := w.Run()
	for _, i := range r.Invariants {
		if i.Name != p.invariant {
			continue
		}
		for _, v := range i.Violations {
			if (v.Device == want || want == stranger && v.Device != "") && strings.Contains(v.Cause, p.cause) && strings.Contains(strings.Join(v.Rows, ", "), p.row) {
				return
			}
		}
		t.Errorf("not found: record %q, rows %q, cause %q; found %d, unread %q: %+v", want, p.row, p.cause, i.Found, i.Unread, i.Violations)
	}
}

// TestPlanted plants at least one violation of each invariant and looks whether
// it is named, with its device and rows. Each of a group's is planted on a device
// of its own, one after the other, in one world.
func TestPlanted(t *testing.T) {
	t.Parallel()
	record := func(n int) []byte {
		r := registrytest.Chip(t, n).RecordID()
		return r[:]
	}
	onRecords := func(query string, args ...any) func(*world) {
		return func(w *world) { w.PlantRecords(query, args...) }
	}
	set := func(n int, columns string, args ...any) func(*world) {
		return onRecords(`update device set `+columns+` where record_id = $1`, append([]any{record(n)}, args...)...)
	}
	onPool := func(query string, args ...any) func(*world) {
		return func(w *world) { w.PlantPool(query, args...) }
	}
	onRegistry := func(query string, args ...any) func(*world) {
		return func(w *world) { w.PlantRegistry(query, args...) }
	}
	// With six shipped devices: 6 has two generations, 7 is reserved, 8 packaged,
	// 9 confirmed, 10 restored, 11 burned and made again; see checktest for more.
	const shipped = 6
	of := func(n int) []byte { return record(shipped + n) }
	groups := map[string][]planted{
		"identities": {
			{"identity twice", check.OneDevice, func(w *world) {
				w.PlantRecords(`drop index device_identity_field`)
				w.PlantRecords(`update device set identity_value = (select identity_value from device where record_id = $2) where record_id = $1`, record(0), record(1))
			}, 0, "bound to record", "identity_use 004402450000017"},
			{"chip with two identities", check.OneDevice, func(w *world) {
				w.PlantRecords(`drop index device_chip_field`)
				w.PlantRecords(`update device set state = 'published', identity_value = '00440245000150' where record_id = $1 and generation = 1`, record(6))
			}, 6, "2 active identities", "/2"},
			{"use removed", check.OneDevice, onRecords(`delete from identity_use where record_id = $1`, record(2)), 2, "no row of its own", "identity_use"},
			{"use of another record", check.OneDevice, func(w *world) {
				w.PlantRecords(`drop index identity_use_chip`)
				w.PlantRecords(`update identity_use set record_id = $2 where record_id = $1`, record(3), record(4))
			}, 4, "no device row with it", "identity_use"},
			{"use released", check.OneDevice, onRecords(`update identity_use set state = 'released' where record_id = $1`, record(5)), 5, "is released, batch 1, where bound", "identity_use"},
		},
		"pool and records": {
			{"used, still in the pool", check.OneDevice, onPool(`insert into waiting (type, value, batch, line, record_id, generation, reserved) values (1, '00440245000000', 1, 'phone', $1, 1, now())`, record(0)), 0, "still in the pool", "pool.waiting 004402450000009"},
			{"used, free in the pool", check.OneDevice, onPool(`insert into waiting (type, value, batch, line) values (1, '00440245000001', 1, 'phone')`), 1, "free in the pool", "pool.waiting"},
			{"on the line, free in the pool", check.OneDevice, onPool(`update waiting set record_id = null, generation = null, reserved = null where record_id = $1`, record(8)), 8, "is free in the pool", "pool.waiting"},
			{"on the line, gone from the pool", check.OneDevice, onPool(`delete from waiting where record_id = $1`, record(9)), 9, "does not wait in the pool", "pool.waiting"},
			{"reserved for another", check.OneDevice, onPool(`update waiting set generation = 7 where record_id = $1`, record(10)), 10, "generation 7: the pool's row was changed", "pool.waiting"},
			{"scrapped, still in the pool", check.OneDevice, onPool(`insert into waiting (type, value, batch, line, record_id, generation, reserved) values (1, '00440245000019', 1, 'phone', $1, 1, now())`, of(checktest.ScrapLine)),
				shipped + checktest.ScrapLine, "the device is scrapped, but its identity 004402450000199 is still in the pool", "pool.waiting"},
			{"device row removed", check.OneDevice, onRecords(`delete from device where record_id = $1`, record(7)), 7, "no device row with it", "identity_use"},
		},
		"counts": {
			{"sum", check.Counts, func(w *world) {
				w.PlantPool(`alter table batch drop constraint batch_sum`)
				w.PlantPool(`update batch set imported = imported + 1`)
			}, -1, "201 imported", "pool.batch 1 (first)"},
			{"free row removed", check.Counts, onPool(`delete from waiting where value = '00440245000100'`), -1, "free by the batch's number", "first"},
			{"reserved row removed", check.Counts, onPool(`delete from waiting where reserved is not null and record_id = $1`, record(8)), -1, "reserved by the batch's number", "first"},
			{"burned row removed", check.Counts, onPool(`delete from burned`), -1, "2 burned by the batch's number, 0 by its rows", "first"},
		},
		"proofs": {
			{"no proof", check.Proofs, func(w *world) {
				w.PlantRecords(`alter table device drop constraint device_check4, drop constraint device_check3`)
				set(0, `proof = null`)(w)
			}, 0, "a proof of 0 bytes", "/1"},
			{"another device's proof", check.Proofs, set(1, `proof = (select proof from device where record_id = $2)`, record(2)), 1, "the proof is wrong", "/1"},
			{"another challenge", check.Proofs, set(3, `challenge = sha256(challenge)`), 3, "the proof is wrong", "/1"},
			{"no challenge", check.Proofs, set(4, `challenge = decode(repeat('00', 32), 'hex')`), 4, "never shown to restore", "/1"},
			{"superseded one too", check.Proofs, onRecords(`update device set proof = sha256(proof) where record_id = $1 and generation = 1`, record(6)), 6, "the proof is wrong", "/1"},
		},
		"registry": {
			{"another entry in the records", check.Findable, set(0, `entry = (select entry from device where record_id = $2)`, record(1)), 0, "does not open", "/1"},
			{"another place in the records", check.Findable, set(2, `sequence = 999`), 2, "the sequencer acknowledged 999", "registry entry 2"},
			{"another certificate in the row", check.Findable, set(3, `certificate = (select certificate from device where record_id = $2)`, record(1)), 3, "another certificate or backup", "/1"},
			{"entry unknown to the records", check.Findable, func(w *world) { w.Registry.Append(registrytest.Entry(t, 70, 1)) }, 70, "know nothing", "registry.entry 20"},
			{"entry of a device on the line", check.Findable, func(w *world) { w.Registry.Append(registrytest.Entry(t, 8, 1)) }, 8, "another entry than the one in the records", "registry.entry 21"},
			{"superseded entry gone", check.Findable, onRegistry(`delete from entry where record_id = $1 and generation = 1`, record(6)), 6, "does not serve it", "registry entry 6"},
			{"gap in the sequence", check.Findable, func(*world) {}, -1, "entry 6 is missing", "registry.entry 6"},
			{"head behind", check.Findable, onRegistry(`update head set size = size + 3`), -1, "is missing", "registry.entry 22"},
			{"leaf hash", check.Findable, onRegistry(`update entry set leaf_hash = sha256('x') where record_id = $1`, record(4)), -1, "not what was accepted", "registry.entry 4"},
		},
		"audit": {
			{"licence of another", check.Audited, set(0, `licence = 2`), 0, "no entry of kind \"assemble\"", "audit_entry 2"},
			{"too many uses", check.Audited, set(1, `uses = 5`), 1, "2 entries licensed the device's keys, the row counts 5", "/1"},
			{"packaged before it was licensed", check.Audited, set(2, `packaged = packaged - interval '1 hour'`), 2, "before they were licensed", "/1"},
			{"unlicensed unlock", check.Audited, onRecords(`insert into unlock (record_id, generation, statement, reason, operator) select $1, 9, statement, 'x', 'x' from unlock limit 1`, record(3)), 3, "no entry licensed this unlock", "unlock"},
			{"device unlicensed", check.Audited, onRecords(`insert into device (record_id, generation, chip_id, identity_type, identity_value, batch, realm, line, station, state, suite, issued_at, kdf, master_version, secrets, licence)
				select record_id, 5, chip_id, identity_type, identity_value, batch, realm, line, station, 'burned', suite, issued_at, kdf, master_version, secrets, licence from device where record_id = $1`, record(4)), 4, "no entry of kind", "/5"},
			{"signed head changed", check.Audited, onRecords(`update audit_signed_head set statement = overlay(statement placing '\x00'::bytea from octet_length(statement) - 1)`), -1, "the signed head at entry", "audit_signed_head"},
			{"body changed", check.Audited, onRecords(`update audit_entry set body = (select body from audit_entry where seq = 5) where seq = $1`, 3), -1, "entry 3 was changed", "audit_entry 3"},
			{"entry removed", check.Audited, onRecords(`delete from audit_entry where seq = $1`, 2), -1, "entry 2 is missing", "audit_entry 2"},
		},
		"histories": {
			{"one part quarantined", check.OneDevice, onRecords(`update device set state = 'quarantined', held = 'reserved' where record_id = $1 and generation = 1`, of(checktest.Superseded)),
				shipped + checktest.Superseded, "a quarantine is of the whole device", "/2"},
			{"one part scrapped", check.OneDevice, onRecords(`update device set state = 'scrapped' where record_id = $1 and generation = 2`, of(checktest.Abandoned)),
				shipped + checktest.Abandoned, "the chip is scrapped, but this generation is shipped", "/1"},
			{"burned after publication", check.OneDevice, onRecords(`update device set state = 'burned' where record_id = $1 and generation = 1`, of(checktest.Stale)),
				shipped + checktest.Stale, "never burned", "/1"},
			{"burned identity given again", check.OneDevice, onRecords(`update device set identity_value = (select identity_value from device where record_id = $1 and generation = 2)
				where record_id = $1 and generation = 1`, of(checktest.Burned)), shipped + checktest.Burned, "a burned identity was given again", "/1"},
			{"quarantined from nowhere", check.OneDevice, func(w *world) {
				w.Unchecked("device")
				w.PlantRecords(`update device set held = 'superseded' where record_id = $1`, of(checktest.HeldOnLine))
			}, shipped + checktest.HeldOnLine, "none that it could return to", "/1"},
			{"quarantined, free in the pool", check.OneDevice, onPool(`update waiting set record_id = null, generation = null, reserved = null where record_id = $1`, of(checktest.Packaged)),
				shipped + checktest.Packaged, "is free in the pool", "pool.waiting"},
			{"quarantined in the field, another proof", check.Proofs, onRecords(`update device set proof = sha256(proof) where record_id = $1`, of(checktest.HeldInField)),
				shipped + checktest.HeldInField, "the proof is wrong", "/1"},
			{"scrapped, another proof", check.Proofs, onRecords(`update device set proof = sha256(proof) where record_id = $1`, of(checktest.Spent)),
				shipped + checktest.Spent, "the proof is wrong", "/1"},
		},
		"scraps": {
			{"scrapped by hand", check.Findable, set(0, `state = 'scrapped'`), 0, "there is no scrap notice", "records.notice"},
			{"scrapped by hand, not ordered", check.Audited, func(*world) {}, 0, "no operator ordered it", "records.device"},
			{"scrapped by hand, identity not released", check.OneDevice, func(*world) {}, 0, "where released, batch 1, is expected", "identity_use"},
			{"scrap entry of a stranger", check.Findable, func(w *world) {
				w.Registry.Append(registrytest.End(t, 1, 1, registry.Scrap, registrytest.ROM(t)))
			}, 1, "that the records never sent", "registry.entry 20"},
			{"scrap entry of a device in use", check.Findable, func(*world) {}, 1, "the registry says that the device is scrapped, the records say that it is shipped", "registry.entry 20"},
			{"scrap entry by another key", check.Findable, func(w *world) {
				w.Registry.Append(registrytest.End(t, 2, 1, registry.Scrap, registrytest.NewSigner(t, "another")))
			}, 2, "not by the identity-signing key", "registry.entry 21"},
			{"another place", check.Findable, onRecords(`update notice set sequence = 999 where record_id = $1`, of(checktest.Scrapped)),
				shipped + checktest.Scrapped, "the records say 999", "records.notice"},
			{"waiting for ever", check.Findable, onRecords(`update notice set sequence = null where record_id = $1`, of(checktest.Scrapped)),
				shipped + checktest.Scrapped, "still waits for the registry", "records.notice"},
			{"swapped too early", check.OneDevice, func(*world) {}, shipped + checktest.Swapped, "before the registry had the scrap entry", "records.plan"},
			{"set aside", check.Findable, onRecords(`update notice set set_aside = 'not the newest' where record_id = $1`, of(checktest.Scrapped)),
				shipped + checktest.Scrapped, "set aside: not the newest", "records.notice"},
			{"of another generation", check.Findable, onRecords(`update notice set generation = 7 where record_id = $1`, of(checktest.Scrapped)),
				shipped + checktest.Scrapped, "the newest that was published is 1", "records.notice"},
			{"another device's notice", check.NoKeys, onRecords(`update notice set entry = (select entry from notice where record_id = $2) where record_id = $1`, of(checktest.Spent), of(checktest.Scrapped)),
				shipped + checktest.Spent, "the notice does not hold", "records.notice"},
			{"another entry in the registry", check.Findable, func(*world) {}, shipped + checktest.Spent, "another scrap entry than the one in the records", "registry.entry 16"},
			{"not served", check.Findable, func(*world) {}, shipped + checktest.Spent, "the registry's newest entry of the device is another", "registry entry 16"},
			{"unlicensed", check.Audited, onRecords(`insert into notice (record_id, generation, type, entry, reason, operator) select $1, 1, 4, entry, reason, operator from notice limit 1`, record(3)),
				3, "no entry licensed the statement of this erase notice", "records.notice"},
			{"gone from the registry", check.Findable, onRegistry(`delete from entry where seq = 16`), shipped + checktest.Spent, "but the registry does not have it", "registry.entry 16"},
			{"no device", check.Findable, onRecords(`insert into notice (record_id, generation, type, entry, reason, operator) select sha256($1), 1, 3, entry, reason, operator from notice limit 1`, []byte("nobody")),
				-2, "that the records don't have", "records.notice"},
			{"device in use", check.Findable, onRecords(`insert into notice (record_id, generation, type, entry, reason, operator) select $1, 1, 3, entry, reason, operator from notice limit 1`, record(4)),
				4, "there is a scrap notice, but the device is shipped", "records.notice"},
			{"scrapped while its entry was on its way", check.Findable, func(w *world) {
				d := w.Device(60, 1, records.Restored)
				w.Must(w.Records.Store.SetAside(t.Context(), d.Record, 1, 0, "refused"))
				w.Scrap(60)
				e, err := registry.ParseEntry(d.Entry)
				w.Must(err)
				w.Registry.Append(e)
			}, 60, "scrapped before its publication was noted", "registry.entry 22"},
		},
		"swaps, orders, reservations": {
			{"identity given away without a plan", check.OneDevice, onRecords(`update plan set record_id = sha256(record_id) where record_id = $1`, of(checktest.Swapped)),
				shipped + checktest.Swapped, "no board swap leads from one to the other", "identity_use"},
			{"taken by nobody", check.OneDevice, func(*world) {}, -2, "no generation of this chip has identity", "records.plan"},
			{"identity burned", check.OneDevice, onRecords(`update identity_use set state = 'burned', planned = null where planned = $1`, of(checktest.Planned)),
				shipped + checktest.Planned, "it can't be carried out any more", "identity_use"},
			{"identity still released", check.OneDevice, func(w *world) {
				w.PlantRecords(`update plan set record_id = $1 where record_id = sha256($1)`, of(checktest.Swapped))
				w.PlantRecords(`update identity_use set state = 'released', record_id = $2 where record_id = $1`, of(checktest.Swapped), of(checktest.Scrapped))
			}, shipped + checktest.Swapped, "is still released and could be given to a third chip", "identity_use"},
			{"old chip in use again", check.OneDevice, func(w *world) {
				w.PlantRecords(`drop index device_identity_field`)
				w.PlantRecords(`update device set state = 'shipped' where record_id = $1`, of(checktest.Scrapped))
			}, shipped + checktest.Swapped, "that record is not scrapped", "records.plan"},
			{"plan of nobody", check.Audited, onRecords(`delete from operator_order where act = 'swap' and record_id = $1`, of(checktest.Spent)),
				shipped + checktest.Planned, "no operator ordered a board swap", "records.plan"},
			{"quarantine not ordered", check.Audited, onRecords(`update device set held = state, state = 'quarantined' where record_id = $1`, record(0)), 0, "the SPP itself never stops one", "/1"},
			{"left quarantine", check.Audited, onRecords(`update device set state = held, held = null where record_id = $1`, of(checktest.HeldInField)),
				shipped + checktest.HeldInField, "nobody released it, but it is shipped", "operator_order"},
			{"order removed", check.Audited, onRecords(`delete from operator_order where act = 'return' and record_id = $1`, of(checktest.Returned)),
				shipped + checktest.Returned, "the records don't know", "audit_entry"},
			{"order changed", check.Audited, onRecords(`update operator_order set operator = 'bob' where act = 'abandon' and record_id = $1`, of(checktest.Abandoned)),
				shipped + checktest.Abandoned, `operator "bob" ordered "abandon"`, "operator_order"},
			{"order without entry", check.Audited, onRecords(`update operator_order set entry = $2 where act = 'release' and record_id = $1`, of(checktest.Released), 3),
				shipped + checktest.Released, "none of kind", "audit_entry 3"},
			{"revoked by hand", check.Audited, onRecords(`insert into revocation (station, reason, operator) values ($1, 'x', 'x')`, "line-3"), -1, `station "line-3" was revoked`, "records.revocation"},
			{"nobody came", check.OneDevice, onPool(`update waiting set record_id = $1, generation = 1, reserved = now() - interval '8 days' where value = '00440245000150'`, record(0)), 0, "never begun with it", "pool.waiting"},
			{"chip without rows", check.OneDevice, onPool(`update waiting set record_id = sha256($1), generation = 1, reserved = now() - interval '8 days' where value = '00440245000151'`, []byte("nobody")), -2, "never begun with it", "pool.waiting"},
			{"standing still", check.OneDevice, onRecords(`update device set changed = now() - interval '8 days' where record_id = $1`, of(checktest.Packaged)),
				shipped + checktest.Packaged, "the device is packaged since", "/1"},
		},
		"forms": {
			{"secrets left", check.NoKeys, set(0, `secrets = (select secrets from device where record_id = $2)`, record(8)), 0, "copy of its secrets is left", "secrets"},
			{"key in the place of a package", check.NoKeys, set(1, `package = sha256('a key')`), 1, "column package", "package"},
			{"another device's backup", check.NoKeys, set(2, `backup = (select backup from device where record_id = $2)`, record(3)), 2, "another manifest", "backup"},
			{"certificate of other claims", check.NoKeys, set(3, `certificate = (select certificate from device where record_id = $2)`, record(4)), 3, "signs other claims", "certificate"},
			{"point off the curve", check.NoKeys, set(4, `point = overlay(point placing '\xffffffffffff'::bytea from 20)`), 4, "not a point", "point"},
			{"long MAC", check.NoKeys, set(5, `proof = proof || proof`), 5, "a MAC has 32 bytes, it has 64", "proof"},
			{"another realm", check.NoKeys, set(9, `realm = 2`), 9, "it is production", "realm"},
			{"another device's manifest", check.NoKeys, set(10, `manifest = (select manifest from device where record_id = $2)`, record(9)), 10, "another device's", "manifest"},
			{"another device's hello", check.NoKeys, set(8, `hello = (select hello from device where record_id = $2)`, record(9)), 8, "another device's", "hello"},
			{"unlock statement", check.NoKeys, onRecords(`update unlock set generation = 3 where record_id = $1`, record(6)), 6, "about another device", "unlock"},
			{"row that does not parse", check.NoKeys, set(7, `chip_id = sha256('another chip')`), 7, "does not parse", "/1"},
			{"token key that can be read", check.NoKeys, func(w *world) { w.keys.Items[0].Sensitive = false }, -1, "not SENSITIVE", "dev-master-1"},
			{"token key that can leave", check.NoKeys, func(w *world) { w.keys.Items[1].Extractable = true }, -1, "EXTRACTABLE", "dev-identity-signing"},
		},
	}
	for name, group := range groups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, shipped)
			w.T = t
			if r := w.Run(); !r.Holds() {
				t.Fatalf("before: %+v", r.Invariants)
			}
			for _, p := range group {
				t.Run(p.name, func(t *testing.T) {
					w.T = t
					defer func() { w.T = nil }()
					p.plant(w)
					p.find(t, w)
				})
			}
		})
	}
}

// TestTwoDevices: one identity in two active records is named with both,
// and no report carries a chip ID.
func TestTwoDevices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.PlantRecords(`drop index device_identity_field`)
	first, second := registrytest.Chip(t, 0).RecordID(), registrytest.Chip(t, 1).RecordID()
	w.PlantRecords(`update device set identity_value = '00440245000000' where record_id = $1`, second[:])
	found := false
	for _, v := range w.Run().Invariants[0].Violations {
		all := strings.Join(v.Rows, ", ")
		found = found || strings.Contains(all, first.Short()) && strings.Contains(all, second.Short()) && strings.Contains(v.Cause, "active in 2 records")
		if id := registrytest.Chip(t, 0).Bytes(); strings.Contains(v.Cause+all, string(id)) {
			t.Error("a violation names a chip ID")
		}
	}
	if !found {
		t.Error("two devices with one identity were not named")
	}
}

// TestGrace: what a crash left is a violation only once it had time to be repaired.
func TestGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.PlantPool(`insert into waiting (type, value, batch, line, record_id, generation, reserved) values (1, '00440245000000', 1, 'phone', decode(repeat('ab', 32), 'hex'), 1, now())`)
	for grace, want := range map[time.Duration]bool{0: false, time.Hour: true} {
		s := w.Sources()
		s.Grace = grace
		if r := check.Run(t.Context(), s); r.Invariants[0].Holds != want {
			t.Errorf("grace %s: holds %v: %+v", grace, r.Invariants[0].Holds, r.Invariants[0].Violations)
		}
	}
}

// TestQuarantinedOnItsWay: the SPP set a device apart while its entry was on its
// way, and the registry took it: no operator stopped a device in the field.
func TestQuarantinedOnItsWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	d := w.Device(70, 1, records.Restored)
	held, err := w.Records.Store.QuarantineOnLine(t.Context(), d.Record, "two holders of one key")
	if err != nil || !held {
		t.Fatalf("held %v, %v", held, err)
	}
	if r := w.Run(); !r.Holds() {
		t.Errorf("on its way: %+v", r.Invariants)
	}
	e, err := registry.ParseEntry(d.Entry)
	w.Must(err)
	size, err := w.Registry.Reader().Size(t.Context())
	w.Must(err)
	w.Registry.Append(e)
	if r := w.Run(); !r.Holds() {
		t.Errorf("taken: %+v", r.Invariants)
	}
	w.Must(w.Records.Store.Published(t.Context(), d.Record, 1, size))
	w.Must(w.Pool.Store.Use(t.Context(), d.Identity))
	if r := w.Run(); !r.Holds() {
		t.Errorf("noted: %+v", r.Invariants)
	}
}

// TestCertificates: an X.509 certificate without its entry is named, one with it is not.
func TestCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	licensed := &x509.Certificate{SerialNumber: big.NewInt(0x1234), Subject: pkix.Name{CommonName: "line 1"}}
	strange := &x509.Certificate{SerialNumber: big.NewInt(0x123), Subject: pkix.Name{CommonName: "line 2"}}
	w.Must(w.Log("custodian").Append(t.Context(), audit.Certification("dev-station-ca", licensed.SerialNumber, licensed.Subject.String(), "ann")))
	s := w.Sources()
	s.Certificates = []*x509.Certificate{licensed, strange}
	r := check.Run(t.Context(), s)
	i := r.Invariants[slices.IndexFunc(r.Invariants, func(i check.Result) bool { return i.Name == check.Audited })]
	if i.Found != 1 || !strings.Contains(i.Violations[0].Rows[0], "certificate 123, CN=line 2") {
		t.Errorf("%+v", i)
	}
}

// TestErasedCertificates: of a certificates entry that was erased the leaf is left, and is held against
// what the records sent.
func TestErasedCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	const chip = 1 + checktest.Superseded
	size, err := w.Registry.Reader().Size(t.Context())
	w.Must(err)
	public := registrytest.Public(t, chip, 1, "")
	erase := registrytest.End(t, chip, 1, registry.Erase, registrytest.ROM(t))
	w.Registry.Append(public, erase)
	for i, e := range []registry.Entry{public, erase} {
		w.PlantRecords(`insert into notice (record_id, generation, type, entry, sequence, reason, operator) values ($1, 1, $2, $3, $4, 'as told', 'ann')`,
			e.Record[:], int64(e.Type), registrytest.Encode(t, e), size+int64(i))
	}
	w.Must(w.Records.Store.License(t.Context(), audit.Event{Kind: audit.Registry, Key: "dev-identity-signing", Record: erase.Record, Generation: 1, Actor: "ann"}))
	w.Sign()
	w.PlantRecords(`update device set x509 = $2 where record_id = $1 and generation = 1`, public.Record[:], []byte{0x81, 0x42, 0x30, 0x00}) // what public has
	// The certificate is none and the sealed record lacks it, which is said before and after.
	findable := func() check.Result {
		all := w.Run().Invariants
		return all[slices.IndexFunc(all, func(i check.Result) bool { return i.Name == check.Findable })]
	}
	before := findable()
	w.PlantRegistry(`update entry set sealed = null where record_id = $1 and generation = 1`, public.Record[:])
	if r := findable(); r.Found != before.Found {
		t.Errorf("erased: %+v", r)
	}
	other := registrytest.Public(t, chip, 1, "urn:x:2")
	w.PlantRecords(`update notice set entry = $2 where record_id = $1 and type = 5`, other.Record[:], registrytest.Encode(t, other))
	if r := findable(); r.Found != before.Found+1 {
		t.Errorf("the leaf of another entry: %+v", r)
	}
}

// TestKeptHead: the auditor's own copy of a head finds a log that was written
// anew with all its signatures gone.
func TestKeptHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	kept, err := w.Log("spp").Head(t.Context())
	w.Must(err)
	s := w.Sources()
	s.From = kept
	if r := check.Run(t.Context(), s); !r.Holds() {
		t.Fatalf("%+v", r.Invariants)
	}
	s.From.Hash[0] ^= 1
	if r := check.Run(t.Context(), s); r.Holds() {
		t.Error("another history was taken")
	}
}

// TestWhileTheLineRuns checks again and again while devices are assembled: what
// is under way is no violation.
func TestWhileTheLineRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	stop := make(chan struct{})
	reports := make(chan check.Report, 100)
	// Sources are made here: only the running of them is concurrent.
	var sources []check.Sources
	for range 5 {
		s := w.Sources()
		s.Grace = time.Minute
		sources = append(sources, s)
	}
	go func() {
		defer close(reports)
		for i := 0; ; i++ {
			reports <- check.Run(t.Context(), sources[i%len(sources)])
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for n := range 25 {
		w.Device(20+n, 1, records.Shipped)
		record := registrytest.Chip(t, 20+n).RecordID()
		switch n % 5 {
		case 0:
			w.Unlock(20+n, 2)
			w.Device(20+n, 2, records.Shipped)
		case 1:
			w.Must(w.Records.Store.Quarantine(t.Context(), record, checktest.Order))
			w.Must(w.Records.Store.Release(t.Context(), record, checktest.Order))
			w.Must(w.Records.Store.Return(t.Context(), record, checktest.Order))
		case 2:
			w.Scrap(20 + n)
			w.Swap(20+n, 60+n)
			w.Device(60+n, 1, records.Shipped)
		}
	}
	close(stop)
	for r := range reports {
		if !r.Holds() {
			t.Errorf("%+v", r.Invariants)
		}
	}
	if r := w.Run(); !r.Holds() {
		t.Errorf("at rest: %+v", r.Invariants)
	}
}
