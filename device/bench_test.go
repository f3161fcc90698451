package device_test

import (
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
)

// BenchmarkDevice takes devices with one communication key and two secrets
// through the line and tells, for each step, its time and its PKCS#11 calls.
func BenchmarkDevice(b *testing.B) {
	items := []chiptest.Item{
		chiptest.Channel(),
		{Kind: keypackage.SIMLock, Name: "network-code", Value: []byte("82041937")},
		{Kind: keypackage.Opaque, Name: "seed"},
	}
	b.Run("software", func(b *testing.B) { benchmark(b, softwareChips, items, func() uint64 { return 0 }) })
	b.Run("token", func(b *testing.B) {
		h := softhsm.New(b)
		r, err := chip.OpenRack(b.Context(), h.Directory.Module(), h.Directory.LockFile(), identity.Development)
		must(b, err)
		defer r.Close()
		benchmark(b, tokenChips(b), items, func() (n uint64) {
			for _, calls := range r.Calls() {
				n += calls
			}
			return n
		})
	})
}

func benchmark(b *testing.B, make maker, items []chiptest.Item, calls func() uint64) {
	spp := chiptest.NewSPP(b, identity.Development)
	took, called := map[string]time.Duration{}, map[string]uint64{}
	step := func(name string, act func() error) {
		b.Helper()
		before, start := calls(), time.Now()
		must(b, act())
		took[name] += time.Since(start)
		called[name] += calls() - before
	}
	for range b.N {
		u := newUnit(b, make, spp)
		ctx := b.Context()
		var raw []byte
		step("hello", func() (err error) { raw, err = u.Hello(ctx, keypackage.SuiteAttested); return err })
		a := spp.Assemble(b, chiptest.ParseHello(b, raw, u.chip.Attester().Public()), chiptest.Order{Items: append([]chiptest.Item(nil), items...)})
		var backup []byte
		step("accept", func() error {
			accepted, err := u.Accept(ctx, a.Package, nil)
			backup = accepted.Backup
			return err
		})
		step("erase", func() error { return u.Erase(ctx) })
		step("close", func() error { return u.Close(ctx) })
		step("open", func() error { u.start(b); return nil })
		step("restore", func() error { return u.Restore(ctx, a.Certificate.Bytes(), backup) })
		step("boot", func() error { _, err := u.Boot(ctx); return err })
		step("restored", func() error { _, err := u.Restored(ctx, [32]byte{}); return err })
		step("published", func() error { _, err := u.Published(ctx, a.Published()); return err })
		step("prove", func() error { _, err := u.Prove(ctx, [32]byte{}); return err })
	}
	for name, t := range took {
		b.ReportMetric(float64(t.Microseconds())/1000/float64(b.N), name+"-ms")
		if called[name] > 0 {
			b.ReportMetric(float64(called[name])/float64(b.N), name+"-calls")
		}
	}
}
