// Package issuedtest gives tests a database `records` with the role of the device service, and devices in it. It is for
// tests alone.
package issuedtest

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Records is one test's database.
type Records struct {
	*pooltest.Database
	Store *issued.Store // as role service

	t testing.TB
}

// New makes the database. Without Postgres the test is skipped, in CI it fails.
func New(t testing.TB) *Records {
	t.Helper()
	d := pooltest.NewDatabase(t, "records", "spp", "auditor", "custodian", issued.DefaultRole)
	if err := records.Migrate(t.Context(), d.AsOwner()); err != nil {
		t.Fatal(err)
	}
	return &Records{d, issued.New(d.As(issued.DefaultRole)), t}
}

// Chip gives the chip of a number.
func Chip(t testing.TB, n int) identity.ChipID {
	t.Helper()
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("chip"), uint64(n)))
	c, err := identity.ParseChipID(h[:16])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// IMEI gives the identity of a number.
func IMEI(t testing.TB, n int) identity.Identity {
	t.Helper()
	id, err := identity.TAC("00440245").IMEI(n)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Device is what Put makes, and the store should find, of a number, in a state.
func Device(t testing.TB, n int, g identity.Generation, state records.State) issued.Device {
	t.Helper()
	return issued.Device{
		Identity: IMEI(t, n), Record: Chip(t, n).RecordID(), Generation: g, Realm: identity.Development,
		Line: "phone", KDF: 1, Master: 1, State: string(state), Active: state.InField(),
	}
}

// Put writes generation g of device n in a state, with everything that the state asks for, as a program of this schema
// does or could.
func (r *Records) Put(n int, g identity.Generation, state records.State) issued.Device {
	r.t.Helper()
	d := Device(r.t, n, g, state)
	r.put(d, n, state)
	return d
}

// put writes a device of the chip of a number.
func (r *Records) put(d issued.Device, n int, state records.State) {
	r.t.Helper()
	g, chip := d.Generation, Chip(r.t, n)
	use := "bound"
	switch state {
	case records.Burned:
		use = "burned"
	case records.Scrapped:
		use = "released"
	}
	r.Exec(`insert into identity_use (type, value, record_id, batch, state) values ($1, $2, $3, 7, $4)
		on conflict (type, value) do update set state = $4, record_id = $3`, int64(d.Identity.Type()), d.Identity.Value(), d.Record[:], use)
	r.Exec(`insert into device (record_id, generation, chip_id, identity_type, identity_value, batch, realm, line, station, state,
		suite, issued_at, kdf, master_version, secrets, licence)
		select $1, $2, $3, $4, $5, 7, 1, 'phone', 'line-1', 'reserved', 1, 1700000000, 1, 1, '\x80', audit_append('x')`,
		d.Record[:], int64(g), chip.Bytes(), int64(d.Identity.Type()), d.Identity.Value())
	if state != records.Reserved && state != records.Burned {
		r.Exec(`update device set state = 'packaged', hello = 'h', point = $3, manifest = 'm', claims = 'c', certificate = 'x',
			package = 'p', packaged = now(), backup = 'backup', confirm = $4, challenge = $4, proof = 'proof', entry = 'entry'
			where record_id = $1 and generation = $2`, d.Record[:], int64(g), make([]byte, 65), make([]byte, 32))
	}
	r.Move(n, g, state)
}

// Move takes generation g of device n to another state.
func (r *Records) Move(n int, g identity.Generation, state records.State) {
	r.t.Helper()
	record := Chip(r.t, n).RecordID()
	switch {
	case state == records.Quarantined:
		r.Exec(`update device set state = 'quarantined', held = 'published', published = now(), sequence = $3
			where record_id = $1 and generation = $2`, record[:], int64(g), int64(n)<<8|int64(g))
	case state.Ever():
		r.Exec(`update device set state = $3, held = null, published = now(), sequence = $4 where record_id = $1 and generation = $2`,
			record[:], int64(g), string(state), int64(n)<<8|int64(g))
	default:
		r.Exec(`update device set state = $3, held = null where record_id = $1 and generation = $2`, record[:], int64(g), string(state))
	}
}

// Swap gives the identity of device n, which was scrapped, to the chip of another number, in generation 1, and ships that.
func (r *Records) Swap(n, chip int) {
	r.t.Helper()
	d := Device(r.t, chip, 1, records.Shipped)
	d.Identity = IMEI(r.t, n)
	r.put(d, chip, records.Shipped)
}

// Certify gives generation g of device n certificates, in DER, and gives the device as the store finds it then.
func (r *Records) Certify(n int, g identity.Generation, state records.State, all ...[]byte) issued.Device {
	r.t.Helper()
	encoded, err := detcbor.Marshal(all)
	if err != nil {
		r.t.Fatal(err)
	}
	d := Device(r.t, n, g, state)
	r.Exec(`update device set x509 = $3 where record_id = $1 and generation = $2`, d.Record[:], int64(g), encoded)
	d.Certificates = issued.CertificatesOf(all...)
	return d
}

// Key writes a wrapped key.
func (r *Records) Key(n int, g identity.Generation, entry string, blob []byte) {
	r.t.Helper()
	record := Chip(r.t, n).RecordID()
	r.Exec(`insert into service_key (record_id, generation, entry, blob) values ($1, $2, $3, $4)`, record[:], int64(g), entry, blob)
}

// Exec runs a statement as the SPP.
func (r *Records) Exec(query string, args ...any) {
	r.t.Helper()
	if _, err := r.As("spp").ExecContext(r.t.Context(), query, args...); err != nil {
		r.t.Fatal(err)
	}
}
