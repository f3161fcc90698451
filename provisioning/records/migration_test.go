package records_test

import (
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// until gives the migrations up to a version.
func until(t testing.TB, names ...string) fs.FS {
	t.Helper()
	files := fstest.MapFS{}
	for _, name := range names {
		b, err := fs.ReadFile(records.Migrations, name)
		must(t, err)
		files[name] = &fstest.MapFile{Data: b}
	}
	return files
}

// TestMigration: a database of version 2 with a device in every state comes to
// the newest one; its devices go on, and what a program of version 2 writes
// afterwards is still taken.
func TestMigration(t *testing.T) {
	t.Parallel()
	d := pooltest.NewDatabase(t, "records", "spp", "auditor", "custodian")
	_, err := database.Migrate(t.Context(), d.AsOwner(), until(t, "00001_audit.sql", "00002_device.sql"))
	must(t, err)
	spp := d.As("spp")
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := spp.Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
	const full = `hello = 'h', point = $3, manifest = 'm', claims = 'c', certificate = 'x', package = 'p', packaged = now(),
		backup = 'backup', confirm = $4, challenge = $4, proof = 'proof', entry = 'entry'`
	write := func(n int, state records.State) identity.RecordID {
		t.Helper()
		chip, id := chip(t, n), imei(t, n)
		record := chip.RecordID()
		exec(`insert into identity_use (type, value, record_id, batch, state) values ($1, $2, $3, 7, 'bound')`, int64(id.Type()), id.Value(), record[:])
		exec(`insert into device (record_id, generation, chip_id, identity_type, identity_value, batch, realm, line, station, state,
			suite, issued_at, kdf, master_version, secrets, licence)
			select $1, 1, $2, $3, $4, 7, 1, 'phone', 'line-1', 'reserved', 1, 1700000000, 1, 3, '\x80', audit_append('x')`,
			record[:], chip.Bytes(), int64(id.Type()), id.Value())
		switch state {
		case records.Reserved:
		case records.Burned:
			exec(`update identity_use set state = 'burned', reason = 'lost' where value = $1`, id.Value())
			exec(`update device set state = 'burned' where record_id = $1`, record[:])
		case records.Published, records.Shipped:
			exec(`update device set state = $2, sequence = $5, published = now(), `+full+` where record_id = $1`, record[:], string(state), make([]byte, 65), make([]byte, 32), n)
		default:
			exec(`update device set state = $2, `+full+` where record_id = $1`, record[:], string(state), make([]byte, 65), make([]byte, 32))
		}
		return record
	}
	all := []records.State{records.Reserved, records.Packaged, records.Confirmed, records.Restored, records.Published, records.Shipped, records.Burned}
	var rows []identity.RecordID
	for n, state := range all {
		rows = append(rows, write(n, state))
	}
	exec(`update device set set_aside = 'refused' where record_id = $1`, rows[3][:])
	exec(`insert into incident (kind, line, station, detail) values ('wrong-attestation', 'phone', 'line-1', 'facts')`)
	key := point(t)
	exec(`insert into chip (record_id, attestation, maker, maker_key, lot) values ($1, $2, 'maker', $3, 'lot')`, rows[0][:], key.Point(), make([]byte, 32))

	for range 2 {
		must(t, records.Migrate(t.Context(), d.AsOwner()))
	}
	s := records.New(spp)
	for n, state := range all {
		have := stateOf(t, s, rows[n], 1)
		if have.State != state || have.Held != "" || have.Reason != "" || have.Identity != imei(t, n) {
			t.Errorf("%s became %s, held %q", state, have.State, have.Held)
		}
		if state == records.Burned {
			continue
		}
		must(t, s.Quarantine(t.Context(), rows[n], ann))
		must(t, s.Release(t.Context(), rows[n], ann))
	}
	if c, err := s.Chip(t.Context(), rows[0]); err != nil || c.Contested != "" || c.Attestation != key {
		t.Errorf("Chip = %+v, %v", c, err)
	}
	if i, err := s.Incidents(t.Context(), 1); err != nil || len(i) != 1 || i[0].Facts != nil {
		t.Errorf("Incidents = %+v, %v", i, err)
	}
	if waiting, aside, _, err := s.Waiting(t.Context()); err != nil || waiting != 0 || aside != 1 {
		t.Errorf("waiting %d, set aside %d, %v", waiting, aside, err)
	}
	for name, set := range map[string]string{
		"quarantined from nowhere": `state = 'quarantined'`, "held, but not quarantined": `held = 'reserved'`,
		"held in no state": `state = 'quarantined', held = 'burned'`, "held beyond what it has": `state = 'quarantined', held = 'packaged'`,
		"a long reason": `reason = repeat('x', 1025)`,
	} {
		if _, err := spp.Exec(`update device set `+set+` where record_id = $1`, rows[0][:]); err == nil {
			t.Errorf("allowed: %s", name)
		}
	}
	must(t, s.Scrap(t.Context(), rows[5], 1, []byte("scrap entry"), ann))
	// A program of version 2 goes on with the schema.
	for n, state := range all {
		write(100+n, state)
	}
}
