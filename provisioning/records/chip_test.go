package records_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/statement"
)

func point(t testing.TB) statement.PublicKey {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, err := statement.ParsePoint(k.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// delivery lists n chips from a number on.
func delivery(t testing.TB, lot string, first, n int) keypackage.DeliveryList {
	t.Helper()
	l := keypackage.DeliveryList{Realm: identity.Development, Maker: "maker", Lot: lot}
	for i := range n {
		l.Chips = append(l.Chips, keypackage.DeliveredChip{Record: chip(t, first+i).RecordID(), Attestation: point(t)})
	}
	return l
}

func TestImportChips(t *testing.T) {
	t.Parallel()
	s := recordstest.New(t).Store
	maker := point(t)
	imports := func(l keypackage.DeliveryList, added, known int, want error) {
		t.Helper()
		a, k, err := s.ImportChips(t.Context(), l, maker)
		if a != added || k != known || !errors.Is(err, want) {
			t.Errorf("lot %s: %d added, %d known, %v, want %d, %d, %v", l.Lot, a, k, err, added, known, want)
		}
	}
	first := delivery(t, "first", 0, 10_050) // more than one statement brings
	imports(first, 10_050, 0, nil)
	imports(first, 0, 10_050, nil)

	overlap := delivery(t, "overlap", 20_000, 5)
	overlap.Chips = append(overlap.Chips, first.Chips[:3]...)
	imports(overlap, 5, 3, nil)
	imports(delivery(t, "empty", 0, 0), 0, 0, nil)

	// The list's other chips stay out too.
	cloned := delivery(t, "cloned", 30_000, 2)
	cloned.Chips = append(cloned.Chips, keypackage.DeliveredChip{Record: first.Chips[7].Record, Attestation: point(t)})
	imports(cloned, 0, 0, records.ErrOtherChip)
	shared := delivery(t, "shared", 40_000, 2)
	shared.Chips[1].Attestation = first.Chips[8].Attestation
	imports(shared, 0, 0, records.ErrOtherChip)
	for _, l := range []keypackage.DeliveryList{cloned, shared} {
		if _, err := s.Chip(t.Context(), l.Chips[0].Record); !errors.Is(err, records.ErrNotFound) {
			t.Errorf("a chip of lot %s: %v", l.Lot, err)
		}
	}

	for _, c := range []struct {
		chip keypackage.DeliveredChip
		lot  string
	}{{first.Chips[0], "first"}, {first.Chips[10_049], "first"}, {overlap.Chips[0], "overlap"}} {
		have, err := s.Chip(t.Context(), c.chip.Record)
		if want := (records.Chip{Record: c.chip.Record, Attestation: c.chip.Attestation, Maker: "maker", Lot: c.lot}); err != nil || have != want {
			t.Errorf("Chip = %+v, %v, want %+v", have, err, want)
		}
	}
	if n, err := s.ChipCount(t.Context()); err != nil || n != 10_055 {
		t.Errorf("%d chips, %v", n, err)
	}
}
