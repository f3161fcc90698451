package audit_test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/audit"
)

// TestSerials: an entry licenses the certificates that it names, each as documented, and no other.
func TestSerials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind audit.Kind
		note string
		want []string
	}{
		{audit.Certify, "certificate 4f00 CN=line 1", []string{"4f00"}},
		{audit.Certify, "certificate 4f00", []string{"4f00"}},
		{audit.Certify, "certificate 4f00 CN=x; certificates 4f01", []string{"4f00"}},
		{audit.Certify, "certificates 4f00 4f01; made in advance for line meter, a to b", []string{"4f00", "4f01"}},
		{audit.Certify, "64 certificates made in advance for line meter", nil},
		{audit.Certify, "", nil},
		{audit.Assemble, "and dev-identity-signing, dev-device-ca; certificates 4f00 4f01", []string{"4f00", "4f01"}},
		{audit.DeviceKey, "certificates 4f00", []string{"4f00"}},
		{audit.Assemble, "and dev-identity-signing", nil},
		{audit.Assemble, "certificate 4f00 CN=x", nil},
		{audit.Order, "certificates 4f00", nil},
		{audit.Ceremony, "certificates 4f00", nil},
	} {
		if have := (audit.Event{Kind: c.kind, Note: c.note}).Serials(); !slices.Equal(have, c.want) {
			t.Errorf("%s %q: %q, want %q", c.kind, c.note, have, c.want)
		}
	}
}

// TestCertifications: however many there are, and however long they and what they are for, every one is named once.
func TestCertifications(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, audit.MaxSerials, audit.MaxSerials + 1, 200} {
		var serials []*big.Int
		var want, have []string
		for i := range n {
			s := new(big.Int).Lsh(big.NewInt(int64(i+1)), 159-8)
			serials, want = append(serials, s), append(want, fmt.Sprintf("%x", s))
		}
		for _, e := range audit.Certifications("dev-device-ca", serials, strings.Repeat("x", 256), "operator ann") {
			if _, err := e.Encode(); err != nil {
				t.Fatalf("%d certificates: %v", n, err)
			}
			have = append(have, e.Serials()...)
		}
		if !slices.Equal(have, want) {
			t.Errorf("%d certificates: %d are named", n, len(have))
		}
	}
}
