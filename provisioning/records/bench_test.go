package records_test

import (
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
)

// BenchmarkReserve is the step with an audit entry: all of them meet at the head
// of the log. The tests' server does not sync its files, so a real one is slower by
// its disk's sync, once for each.
func BenchmarkReserve(b *testing.B) {
	s := recordstest.New(b).Store
	var n atomic.Int64
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			d := device(b, int(n.Add(1)), 1)
			if err := s.Reserve(b.Context(), d, event(d)); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}

// BenchmarkAssembly takes devices through all their steps.
func BenchmarkAssembly(b *testing.B) {
	s := recordstest.New(b).Store
	var n atomic.Int64
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			bring(b, s, device(b, int(n.Add(1)), 1), records.Shipped)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
}
