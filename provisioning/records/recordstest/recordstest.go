// Package recordstest gives tests a database `records` of their own: real
// Postgres, real roles, migrated, dropped at the end. It is for tests alone.
package recordstest

import (
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Records is one test's database.
type Records struct {
	*pooltest.Database
	Store *records.Store // as role spp
}

// New makes the database. Without Postgres the test is skipped, in CI it fails.
func New(t testing.TB) *Records {
	t.Helper()
	d := pooltest.NewDatabase(t, "records", "spp", "auditor", "custodian")
	if err := records.Migrate(t.Context(), d.AsOwner()); err != nil {
		t.Fatal(err)
	}
	return &Records{d, records.New(d.As("spp"))}
}
