package records_test

import (
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
)

// TestEndedKeepsNoSecrets: a generation that ends before it is published keeps no sealed secrets: the
// database alone will have forgotten them.
func TestEndedKeepsNoSecrets(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *records.Store, d records.Device) error{
		"burned": func(s *records.Store, d records.Device) error {
			return s.Burned(t.Context(), d.Identity, d.Batch, "nobody came")
		},
		"burned by an operator": func(s *records.Store, d records.Device) error {
			return s.BurnedBy(t.Context(), d.Identity, d.Batch, ann)
		},
		"scrapped": func(s *records.Store, d records.Device) error {
			return s.Scrap(t.Context(), d.Record, 1, nil, ann)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := recordstest.New(t).Store
			d := bring(t, s, device(t, 1, 1), records.Packaged)
			if len(d.Secrets) == 0 {
				t.Fatal("the device has no secrets: the test proves nothing")
			}
			must(t, end(s, d))
			have, err := s.Get(t.Context(), d.Record, 1)
			must(t, err)
			if len(have.Secrets) != 0 {
				t.Errorf("it is %s and has %d sealed secrets", have.State, len(have.Secrets))
			}
		})
	}
	t.Run("abandoned", func(t *testing.T) {
		t.Parallel()
		s := recordstest.New(t).Store
		d := bring(t, s, device(t, 1, 1), records.Shipped)
		next := device(t, 1, 2)
		must(t, s.Reserve(t.Context(), next, event(next)))
		must(t, s.AbandonStale(t.Context(), d.Record, 2, "nobody came"))
		have, err := s.Get(t.Context(), d.Record, 2)
		must(t, err)
		if have.State != records.Burned || len(have.Secrets) != 0 {
			t.Errorf("it is %s and has %d sealed secrets", have.State, len(have.Secrets))
		}
	})
}
