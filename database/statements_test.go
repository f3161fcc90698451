package database_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// TestEach: every row is seen once and in order, an error of a row ends it, and one of the server is told.
func TestEach(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.ForTest(t).TestDatabase(t, "each"), "reader")
	s := database.NewStatements(db)
	const query = `select 12 / (5 - o) from generate_series(1, $1::int) o`
	var seen []int
	row := func(scan func(...any) error) error {
		var n int
		err := scan(&n)
		seen = append(seen, n)
		return err
	}
	if err := s.Each(within(t), row, query, 3); err != nil || !slices.Equal(seen, []int{3, 4, 6}) {
		t.Errorf("%v, %v", seen, err)
	}
	seen = nil
	if err := s.Each(within(t), row, query, 5); err == nil {
		t.Errorf("a division by zero gives %v", seen)
	}
	seen = nil
	enough := errors.New("enough")
	err := s.Each(within(t), func(scan func(...any) error) error { return errors.Join(row(scan), enough) }, query, 3)
	if !errors.Is(err, enough) || len(seen) != 1 {
		t.Errorf("%v, %v", seen, err)
	}
	if err := s.Each(within(t), func(func(...any) error) error { return nil }, `select nonsense`); err == nil {
		t.Error("nonsense is run")
	}
	if open := db.Stats().InUse; open != 0 {
		t.Errorf("%d connections are not given back", open)
	}
}

// TestNow: the time is the server's, which is this machine's here.
func TestNow(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.ForTest(t).TestDatabase(t, "now"), "reader")
	before := time.Now()
	now, err := database.NewStatements(db).Now(within(t))
	if after := time.Now(); err != nil || now.Before(before.Truncate(time.Microsecond)) || now.After(after) {
		t.Errorf("%s between %s and %s: %v", now, before, after, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := database.NewStatements(db).Now(within(t)); err == nil {
		t.Error("a closed database tells the time")
	}
}
