package pool_test

import (
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
)

// BenchmarkReserveUse reserves identities of one batch and uses them up. The
// tests' server does not sync its files.
func BenchmarkReserveUse(b *testing.B) {
	s := pooltest.New(b).Store
	mustImport(b, s, "a", "phone", imeis(b, 0, b.N))
	var n atomic.Int64
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := mustReserve(b, s, "phone", int(n.Add(1)), 1)
			if err := s.Use(b.Context(), r.Identity); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}
