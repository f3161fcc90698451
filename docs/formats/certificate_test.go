package formats_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/identity/identitytest"
	"github.com/devicekeys/devicekeys/statement"
)

// TestCertificates: of every layout, the Python reads what the product says;
// and it refuses what C and Go refuse (package device/rom), though signed.
func TestCertificates(t *testing.T) {
	t.Parallel()
	python(t)
	maker, folder := chiptest.NewSPP(t, dev), t.TempDir()
	write(t, folder, "rom.pem", maker.ROMKey().PEM())

	var want strings.Builder
	args := []string{"check", "--rom-key", "rom.pem"}
	for i, m := range identitytest.EveryLayout(t, maker) {
		name := fmt.Sprintf("layout-%d", i)
		write(t, folder, name, m.Raw)
		args = append(args, name)
		fmt.Fprintf(&want, "file: %s\nsubject: %s\nrealm: %d\ngeneration: %d\nissued at: %d\nrecord id: %s\nclaims hash: %x\n", name,
			m.Claims.Subject.URN(), m.Claims.Realm, m.Claims.Generation, m.Claims.IssuedAt, m.Claims.ChipID.RecordID(), sha256.Sum256(m.Coded))
	}
	if out := accepts(t, folder, args...); out != want.String() {
		t.Errorf("the Python reads\n%s\nwhere the product has\n%s", out, want.String())
	}

	bad := identitytest.BadClaims()
	names := slices.Sorted(maps.Keys(bad))
	args = []string{"check", "--rom-key", "rom.pem"}
	for i, name := range names {
		raw, err := statement.Sign(t.Context(), maker, statement.IdentityCertificate, bad[name])
		must(t, err)
		if _, err := identity.ParseCertificate(raw, maker.ROMKey()); err == nil {
			t.Errorf("%s: Go takes it", name)
		}
		file := fmt.Sprintf("bad-%d", i)
		write(t, folder, file, raw)
		args = append(args, file)
	}
	r := run(t, folder, args...)
	said := strings.Split(strings.TrimSpace(r.output), "\nfile: ")
	if r.code != 1 || len(said) != len(names) || !strings.Contains(r.trouble, fmt.Sprintf("refused: %d of %d certificates", len(names), len(names))) {
		t.Fatalf("code %d\n%s%s", r.code, r.output, r.trouble)
	}
	for i, name := range names {
		if !strings.Contains(said[i], "\nrefused: ") || strings.Contains(said[i], "signature") {
			t.Errorf("%s: the Python says %s", name, said[i])
		}
	}
}
