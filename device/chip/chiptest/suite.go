package chiptest

import (
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Bench gives the suite its chips.
type Bench struct {
	// New makes a chip with a chip ID of size bytes.
	New func(t *testing.T, size int) chip.Chip
	// Reopen closes a chip and opens it again, as a reset does.
	Reopen func(t *testing.T, c chip.Chip) chip.Chip
}

// Run runs the suite that every chip must pass.
func Run(t *testing.T, b Bench) {
	for name, test := range map[string]func(*testing.T, Bench){
		"ID":              testID,
		"Attestation":     testAttestation,
		"Transfer":        testTransfer,
		"Algorithms":      testAlgorithms,
		"Tampering":       testTampering,
		"SingleUse":       testSingleUse,
		"OtherClaims":     testOtherClaims,
		"ResidentStays":   testResidentStays,
		"WrongAlgorithms": testWrongAlgorithms,
		"ROMKey":          testROMKey,
		"Fuses":           testFuses,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

func testID(t *testing.T, b Bench) {
	for _, size := range []int{16, 24, 32} {
		c := b.New(t, size)
		if c.ID().Len() != size {
			t.Errorf("chip ID has %d bytes, want %d", c.ID().Len(), size)
		}
		again := b.Reopen(t, c)
		if again.ID() != c.ID() || again.Realm() != identity.Development {
			t.Error("chip ID or realm changed over a reset")
		}
	}
}

func testAttestation(t *testing.T, b Bench) {
	c := b.New(t, 32)
	raw, err := statement.Sign(t.Context(), c.Attester(), statement.Attestation, []byte("hello"))
	check(t, err)
	again := b.Reopen(t, c)
	if _, err := statement.Open(raw, statement.Attestation, again.Attester().Public(), len(raw)); err != nil {
		t.Errorf("attestation does not verify after a reset: %v", err)
	}
}
