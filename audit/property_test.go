package audit_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/identity"
)

// TestEventOneEncoding: whatever an entry says has one encoding.
func TestEventOneEncoding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := audit.Event{
			Kind:  rapid.SampledFrom([]audit.Kind{audit.Assemble, audit.DeviceKey, audit.Unlock, audit.Registry, audit.Certify, audit.Ceremony, audit.Check, audit.Order}).Draw(t, "kind"),
			Actor: rapid.StringMatching(`[ -~]{1,160}`).Draw(t, "actor"),
			Note:  rapid.StringMatching(`[ -~]{0,200}`).Draw(t, "note"),
		}
		if e.Kind != audit.Order {
			e.Key = rapid.StringMatching(`[a-z0-9-]{1,64}`).Draw(t, "key")
		}
		ofDevice := e.Kind == audit.Assemble || e.Kind == audit.DeviceKey || e.Kind == audit.Unlock || e.Kind == audit.Registry
		if ofDevice || rapid.Bool().Draw(t, "of a device") {
			e.Record = identity.RecordID(append(rapid.SliceOfN(rapid.Byte(), 31, 31).Draw(t, "record"), 1))
			e.Generation = identity.Generation(rapid.Uint32Min(1).Draw(t, "generation"))
		}
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		detcbortest.OneEncoding(t, "event", b, func(b []byte) ([]byte, error) {
			e, err := audit.ParseEvent(b)
			if err != nil {
				return nil, err
			}
			again, err := e.Encode()
			if err != nil {
				t.Fatalf("it reads, and can't be written: %v", err)
			}
			return again, nil
		})
	})
}
